#include "tessera/core/split.hpp"

namespace tessera {

std::vector<std::string_view> split(std::string_view text, std::string_view separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const auto end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + separator.size());
  }
}

std::vector<std::string> split_names(std::string_view text, std::string_view separator) {
  std::vector<std::string> names;
  for (const auto part : split(text, separator)) {
    if (!part.empty()) names.emplace_back(part);
  }
  return names;
}

}  // namespace tessera
