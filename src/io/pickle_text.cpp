#include "io/pickle_text.hpp"

#include <charconv>
#include <cstdint>

namespace tessera::io {
namespace {

std::optional<std::uint32_t> digits(std::string_view text, std::size_t at, std::size_t count, int base) {
  if (at + count > text.size()) return std::nullopt;
  std::uint32_t value = 0;
  const char* end = text.data() + at + count;
  const auto [stop, error] = std::from_chars(text.data() + at, end, value, base);
  return error == std::errc{} && stop == end ? std::optional(value) : std::nullopt;
}

bool append_utf8(std::string& out, std::uint32_t code) {
  if (code > 0x10ffff) return false;
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xc0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xe0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
    out += static_cast<char>(0x80 | (code & 0x3f));
  } else {
    out += static_cast<char>(0xf0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3f));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
    out += static_cast<char>(0x80 | (code & 0x3f));
  }
  return true;
}

constexpr std::string_view kEscapes = "\\'\"abfnrtv";
constexpr std::string_view kMeanings = "\\'\"\a\b\f\n\r\t\v";

}  // namespace

std::optional<std::string> unquote_python2(std::string_view text) {
  if (text.size() < 2 || (text.front() != '\'' && text.front() != '"') || text.back() != text.front())
    return std::nullopt;
  text = text.substr(1, text.size() - 2);
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    if (++i >= text.size()) return std::nullopt;
    if (const auto known = kEscapes.find(text[i]); known != std::string_view::npos) {
      out += kMeanings[known];
    } else if (text[i] == 'x') {
      const auto value = digits(text, i + 1, 2, 16);
      if (!value) return std::nullopt;
      out += static_cast<char>(*value);
      i += 2;
    } else if (text[i] >= '0' && text[i] <= '7') {
      const auto value = digits(text, i, 3, 8);
      if (!value || *value > 0xff) return std::nullopt;
      out += static_cast<char>(*value);
      i += 2;
    } else {
      out += '\\';
      out += text[i];
    }
  }
  return out;
}

std::optional<std::string> decode_raw_unicode_escape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '\\' && i + 1 < text.size() && (text[i + 1] == 'u' || text[i + 1] == 'U');
    if (!escape) {
      append_utf8(out, static_cast<unsigned char>(text[i]));
      continue;
    }
    const std::size_t count = text[i + 1] == 'u' ? 4 : 8;
    const auto code = digits(text, i + 2, count, 16);
    if (!code || !append_utf8(out, *code)) return std::nullopt;
    i += 1 + count;
  }
  return out;
}

}  // namespace tessera::io
