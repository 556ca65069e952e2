#pragma once
// Choices that several families take alike.
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/data/choices.hpp"
#include "tessera/data/sample.hpp"

namespace tessera::data {

template <std::size_t N>
std::string_view pick_phrase(const std::array<std::string_view, N>& list, Choices& choices) {
  return list[static_cast<std::size_t>(choices.pick(static_cast<std::int64_t>(N)))];
}

/// 0 … count-1.
std::vector<std::int64_t> in_order(std::int64_t count);

/// `most` of `count` in random order, or all in order where there are fewer.
std::vector<std::int64_t> pick_up_to(std::int64_t count, std::int64_t most, Choices& choices);

/// One of the short questions about `phrase`, put in lower case, and one of the answers.
Conversation short_question(std::string_view phrase, Choices& choices);

}  // namespace tessera::data
