#pragma once
// The text forms of protocol 0.
#include <optional>
#include <string>
#include <string_view>

namespace tessera::io {

/// Python 2's repr of a str: quotes and backslash escapes. Nothing when it is malformed.
std::optional<std::string> unquote_python2(std::string_view text);
/// "raw-unicode-escape": \uXXXX and \UXXXXXXXX, all else Latin-1. Gives UTF-8; nothing when it is malformed.
std::optional<std::string> decode_raw_unicode_escape(std::string_view text);

}  // namespace tessera::io
