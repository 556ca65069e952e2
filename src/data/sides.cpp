#include "data/sides.hpp"

#include <algorithm>
#include <cctype>
#include <string>

namespace tessera::data {

bool speaks_of_sides(std::string_view text) {
  if (text.find("\xe5\xb7\xa6") != std::string_view::npos || text.find("\xe5\x8f\xb3") != std::string_view::npos) {
    return true;
  }
  std::string word;
  const auto is_letter = [](char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; };
  for (std::size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && is_letter(text[i])) {
      word.push_back(static_cast<char>(std::tolower(static_cast<unsigned char>(text[i]))));
      continue;
    }
    if (word.starts_with("left") || word.starts_with("right")) return true;
    word.clear();
  }
  return false;
}

bool may_flip(const StoredSample& sample) {
  if (!sample.more_images.empty()) return false;
  return std::all_of(sample.conversations.begin(), sample.conversations.end(), [](const auto& conversation) {
    return !conversation.text.empty() && !speaks_of_sides(conversation.text);
  });
}

}  // namespace tessera::data
