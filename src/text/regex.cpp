#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.hpp"

#include <pcre2.h>

#include <utility>

#include "tessera/core/error.hpp"

namespace tessera::text {
namespace {

constexpr const char* kSpaces =
    "\\x{09}-\\x{0D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";

/// Writes `\s` and, outside brackets, `\S` as explicit sets.
std::string spell_out_spaces(const std::string& pattern) {
  std::string out;
  bool in_set = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c != '\\' || i + 1 == pattern.size()) {
      if (c == '[' && !in_set) {
        in_set = true;
      } else if (c == ']' && in_set && !out.ends_with('[') && !out.ends_with("[^")) {
        in_set = false;
      }
      out += c;
      continue;
    }
    const char escaped = pattern[++i];
    if (escaped == 's') {
      out += in_set ? kSpaces : "[" + std::string(kSpaces) + "]";
    } else if (escaped == 'S' && !in_set) {
      out += "[^" + std::string(kSpaces) + "]";
    } else {
      out += {c, escaped};
    }
  }
  return out;
}

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

struct Regex::Impl {
  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code{nullptr, &pcre2_code_free};
  std::string where;
};

Regex::Regex(const std::string& pattern, const std::string& where) : impl_(std::make_unique<Impl>()) {
  const std::string spelled = spell_out_spaces(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl_->where = where;
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(spelled.data()), spelled.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr));
  if (!impl_->code) {
    throw RequestError("text: {}: the regular expression '{}' does not compile: {}", where, pattern, message_of(error));
  }
  pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE);  // where there is no JIT, matching interprets
}

Regex::Regex(Regex&&) noexcept = default;
Regex::~Regex() = default;

void Regex::for_each(std::string_view text, const std::function<void(std::size_t, std::size_t)>& found) const {
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create_from_pattern(impl_->code.get(), nullptr), &pcre2_match_data_free);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  for (std::size_t at = 0; at < text.size();) {
    int count = pcre2_match(impl_->code.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, data.get(), nullptr);
    if (count == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter's stack lies on the heap
      count = pcre2_match(impl_->code.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(),
                          nullptr);
    }
    if (count == PCRE2_ERROR_NOMATCH) return;
    if (count < 0) throw RequestError("text: {}: cannot split the text: {}", impl_->where, message_of(count));
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
    if (bounds[1] > bounds[0]) found(bounds[0], bounds[1]);
    at = bounds[1] > at ? bounds[1] : at + 1;
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
  }
}

}  // namespace tessera::text
