#include "tessera/data/vqa.hpp"

#include <fmt/format.h>

#include "data/annotation_json.hpp"
#include "tessera/text/image_tokens.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

const std::string kFamily = "vqa";
constexpr std::string_view kImageFolder = "coco/train2017/";

/// The image tag alone in front of the message, as LLaVA's trainer wants it.
std::string image_to_front(std::string message) {
  if (message.find(text::kImageToken) == std::string::npos) return message;
  for (auto at = message.find(text::kImageToken); at != std::string::npos; at = message.find(text::kImageToken)) {
    message.erase(at, text::kImageToken.size());
  }
  return std::string(strip(fmt::format("{}\n{}", text::kImageToken, strip(message))));
}

class Vqa final : public Reader {
 public:
  Vqa(const fs::path& dataset_dir, std::string_view name)
      : path_(dataset_dir / "llava_dataset" / fmt::format("{}.json", name)), source_(fmt::format("vqa/{}", name)) {
    if (!fs::exists(path_)) throw RequestError("--vqa_data: no file '{}'", path_.string());
    for_each_sound_record(path_, problems_,
                          [this](const std::string& where, const nlohmann::json& record) { add(where, record); });
  }

  const std::string& source() const noexcept override { return source_; }
  const std::string& family() const noexcept override { return kFamily; }
  const std::vector<Item>& items() const noexcept override { return items_; }
  const std::vector<Problem>& problems() const noexcept override { return problems_; }
  std::vector<fs::path> decided_by(std::int64_t) const override { return {path_}; }

  ItemSamples make(std::int64_t item, image::Size, std::span<Choices> draws) const override {
    ItemSamples result;
    const auto& messages = dialogues_.at(static_cast<std::size_t>(item));
    for (std::size_t i = 0; i < draws.size(); ++i) {
      Sample sample;
      sample.conversations.push_back({messages, messages.front()});
      result.samples.push_back(std::move(sample));
    }
    return result;
  }

 private:
  void add(const std::string& where, const nlohmann::json& record) {
    const auto image = string_field(record, "image", path_, where);
    const auto& turns = as_array(field(record, "conversations", path_, where), path_, where + ".conversations");
    std::vector<std::string> messages;
    for (std::size_t t = 0; t < turns.size(); ++t) {
      const auto place = fmt::format("{}.conversations[{}]", where, t);
      const auto from = string_field(turns[t], "from", path_, place);
      const bool human = from == "human";
      if (!human && from != "gpt")
        throw BrokenSample({path_.string(), place + ".from", "'" + from + "' is neither human nor gpt"});
      if (t == 0 && !human) continue;  // a leading answer has no question
      if (human != (messages.size() % 2 == 0))
        throw BrokenSample({path_.string(), place, "the roles do not alternate"});
      messages.push_back(image_to_front(string_field(turns[t], "value", path_, place)));
    }
    if (messages.size() < 2) throw BrokenSample({path_.string(), where, "a dialogue without an answer"});
    items_.push_back({where, std::string(kImageFolder) + image});
    dialogues_.push_back(std::move(messages));
  }

  fs::path path_;
  std::string source_;
  std::vector<Item> items_;
  std::vector<std::vector<std::string>> dialogues_;
  std::vector<Problem> problems_;
};

}  // namespace

std::unique_ptr<Reader> vqa_training(const fs::path& dataset_dir, std::string_view name) {
  return std::make_unique<Vqa>(dataset_dir, name);
}

}  // namespace tessera::data
