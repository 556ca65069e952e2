#pragma once
/// Small UTF-8 helpers with the semantics of Python's str.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::text {

/// Byte position of the first malformed sequence, npos when the text is UTF-8.
std::size_t find_invalid_utf8(std::string_view text) noexcept;
/// Throws RequestError when the text is not UTF-8.
void require_utf8(std::string_view text);
/// bytes.decode("utf-8", errors="replace"): one U+FFFD per maximal ill-formed part.
std::string decode_lossy(std::string_view bytes);

/// Code point at `at` of valid UTF-8; moves `at` behind it.
char32_t next_code_point(std::string_view text, std::size_t& at) noexcept;
void append_utf8(std::string& out, char32_t code);

/// str.isspace() for one code point.
bool is_python_space(char32_t code) noexcept;
std::string_view lstrip(std::string_view text) noexcept;
std::string_view rstrip(std::string_view text) noexcept;
std::string_view strip(std::string_view text) noexcept;

/// str.split(sep) with a non-empty separator.
std::vector<std::string_view> split(std::string_view text, std::string_view sep);
/// str.replace(from, to) with a non-empty `from`.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

/// Unicode normalisation form C.
std::string nfc(std::string_view text);

}  // namespace tessera::text
