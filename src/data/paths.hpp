#pragma once
// Paths that annotation files name.
#include <algorithm>
#include <filesystem>

namespace tessera::data {

/// Whether the path stays inside the folder it is relative to.
inline bool stays_inside(const std::filesystem::path& relative) {
  if (relative.empty() || relative.is_absolute()) return false;
  return std::none_of(relative.begin(), relative.end(), [](const std::filesystem::path& part) { return part == ".."; });
}

}  // namespace tessera::data
