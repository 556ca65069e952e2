#include "data/dialogue.hpp"

#include <fmt/format.h>

#include <array>

#include "data/words.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// The first of `names` that the turn has.
std::string text_of(const json& turn, const std::array<const char*, 2>& names, const fs::path& path,
                    const std::string& where) {
  const auto& object = as_object(turn, path, where);
  const char* name = object.contains(names[0]) || !object.contains(names[1]) ? names[0] : names[1];
  return string_field(turn, name, path, where);
}

bool is_human(const std::string& from, const fs::path& path, const std::string& where) {
  if (from == "human" || from == "user") return true;
  if (from == "gpt" || from == "assistant") return false;
  throw BrokenSample({path.string(), where + ".from", "'" + from + "' is neither human nor gpt"});
}

}  // namespace

Conversation read_dialogue(const json& turns, const fs::path& path, const std::string& where) {
  Conversation conversation;
  conversation.as_written = true;
  conversation.words = 0;
  const auto& list = as_array(turns, path, where);
  for (std::size_t t = 0; t < list.size(); ++t) {
    const auto place = fmt::format("{}[{}]", where, t);
    const bool human = is_human(text_of(list[t], {"from", "role"}, path, place), path, place);
    auto value = text_of(list[t], {"value", "content"}, path, place);
    conversation.words += count_words(value);
    if (t == 0 && !human) continue;  // a leading answer has no question
    if (human != (conversation.messages.size() % 2 == 0)) {
      throw BrokenSample({path.string(), place, "the roles do not alternate"});
    }
    conversation.messages.push_back(std::move(value));
  }
  if (conversation.messages.size() < 2) throw BrokenSample({path.string(), where, "a dialogue without an answer"});
  conversation.question = conversation.messages.front();
  return conversation;
}

}  // namespace tessera::data
