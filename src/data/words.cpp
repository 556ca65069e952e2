#include "data/words.hpp"

#include <array>

namespace tessera::data {
namespace {

/// Bytes of the white space at the front of `text`, 0 where there is none.
std::size_t white_space(std::string_view text) {
  const auto byte = static_cast<unsigned char>(text.front());
  if (byte == ' ' || (byte >= 0x09 && byte <= 0x0d) || (byte >= 0x1c && byte <= 0x1f)) return 1;
  if (byte < 0x80) return 0;
  if (text.starts_with("\xc2\x85") || text.starts_with("\xc2\xa0")) return 2;
  if (text.starts_with("\xe2\x80") && text.size() > 2) {  // U+2000 … U+200A, U+2028, U+2029, U+202F
    const auto last = static_cast<unsigned char>(text[2]);
    return last <= 0x8a || last == 0xa8 || last == 0xa9 || last == 0xaf ? 3 : 0;
  }
  constexpr std::array<std::string_view, 3> kOthers = {"\xe1\x9a\x80", "\xe2\x81\x9f", "\xe3\x80\x80"};
  for (const auto other : kOthers) {
    if (text.starts_with(other)) return other.size();
  }
  return 0;
}

}  // namespace

std::int64_t count_words(std::string_view text) {
  std::int64_t words = 0;
  bool inside = false;
  while (!text.empty()) {
    const auto blank = white_space(text);
    if (blank == 0 && !inside) ++words;
    inside = blank == 0;
    text.remove_prefix(blank == 0 ? 1 : blank);
  }
  return words;
}

std::int64_t count_words(const std::vector<std::string>& texts) {
  std::int64_t words = 0;
  for (const auto& text : texts) words += count_words(text);
  return words;
}

}  // namespace tessera::data
