#pragma once
/// A stroke font. A glyph is polylines on a grid of 5 columns and 9 rows: each point is two digits, column (0 left) and
/// row (0 descender, 2 base line, 6 top of small letters, 8 top of capitals); a blank begins a new polyline.
#include <cstdint>
#include <string_view>

namespace tessera::image {

inline constexpr int kBaseRow = 2, kCapitalRows = 6;

/// The strokes of an ASCII character; those of '?' for anything that has none.
std::string_view glyph(char c) noexcept;

}  // namespace tessera::image
