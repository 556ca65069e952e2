#include "data/phrases.hpp"

#include <numeric>

#include "tessera/text/lisa_templates.hpp"

namespace tessera::data {

std::vector<std::int64_t> in_order(std::int64_t count) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

std::vector<std::int64_t> pick_up_to(std::int64_t count, std::int64_t most, Choices& choices) {
  return count >= most ? choices.pick_several(count, most) : in_order(count);
}

Conversation short_question(std::string_view phrase, Choices& choices) {
  auto question = text::fill(pick_phrase(text::kShortQuestions, choices), text::lower(phrase));
  return {{std::move(question), std::string(pick_phrase(text::kAnswers, choices))}, std::string(phrase)};
}

}  // namespace tessera::data
