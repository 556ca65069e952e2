#pragma once
/// Regular expressions over UTF-8 with Unicode properties, by PCRE2, for pre-tokenisers.
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace tessera::text {

class Regex {
 public:
  /// `\s` means Unicode white space, as in the libraries that the patterns were written for (PCRE2's own includes
  /// U+180E). Throws RequestError naming `where`: a pattern that does not compile.
  Regex(const std::string& pattern, const std::string& where);
  Regex(Regex&&) noexcept;
  ~Regex();

  /// Calls `found` with [begin, end) of each match, left to right; empty matches are passed over. `text` is UTF-8.
  /// Throws RequestError: a match that needs too much backtracking.
  void for_each(std::string_view text, const std::function<void(std::size_t, std::size_t)>& found) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::text
