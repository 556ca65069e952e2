#include "tessera/data/own.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "data/own_record.hpp"
#include "data/phrases.hpp"
#include "tessera/text/image_tokens.hpp"
#include "tessera/text/lisa_templates.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

const std::string kFamily = "own";

class Own final : public Reader {
 public:
  Own(const fs::path& folder, const std::string& file, std::int64_t questions, bool validation)
      : folder_(folder), path_(folder / file), questions_(questions), validation_(validation) {
    const auto name = folder.filename().empty() ? folder.parent_path().filename() : folder.filename();
    source_ = fmt::format("own/{}{}", name.string(), validation ? "/val" : "");
    if (!fs::exists(path_))
      throw RequestError("--own_data: no file '{}'; datasets/own.md says what is expected", path_.string());
    for_each_sound_record(path_, problems_, [this](const std::string& where, const nlohmann::json& record) {
      auto read = read_own_record(record, path_, where);
      items_.push_back({read.where, read.image, {}});
      records_.push_back(std::move(read));
    });
  }

  const std::string& source() const noexcept override { return source_; }
  const std::string& family() const noexcept override { return kFamily; }
  fs::path image_folder() const override { return folder_; }
  const std::vector<Item>& items() const noexcept override { return items_; }
  const std::vector<Problem>& problems() const noexcept override { return problems_; }
  std::vector<fs::path> decided_by(std::int64_t item) const override {
    std::vector<fs::path> files{path_};
    const auto add = [&](const OwnMask& mask) {
      if (const auto* png = std::get_if<OwnPng>(&mask.shape)) files.push_back(folder_ / png->file);
    };
    const auto& record = records_.at(static_cast<std::size_t>(item));
    for (const auto& question : record.questions) std::for_each(question.masks.begin(), question.masks.end(), add);
    if (record.ignore) add(*record.ignore);
    return files;
  }

  ItemSamples make(std::int64_t item, image::Size size, std::span<Choices> draws) const override {
    const auto& record = records_.at(static_cast<std::size_t>(item));
    ItemSamples result;
    std::vector<std::int32_t> first_mask;  // of each question
    for (const auto& question : record.questions) {
      first_mask.push_back(static_cast<std::int32_t>(result.masks.size()));
      for (const auto& mask : question.masks) result.masks.push_back(draw_own_mask(mask, size, folder_, path_));
    }
    if (record.ignore) {
      result.ignore_mask = static_cast<std::int32_t>(result.masks.size());
      result.masks.push_back(draw_own_mask(*record.ignore, size, folder_, path_));
    }
    for (auto& choices : draws) {
      Sample sample;
      const auto count = static_cast<std::int64_t>(record.questions.size());
      for (const auto q : validation_ ? in_order(count) : pick_up_to(count, questions_, choices)) {
        const auto& question = record.questions[static_cast<std::size_t>(q)];
        if (validation_ && question.masks.empty()) continue;  // nothing to score
        sample.conversations.push_back(validation_ ? validation_form(question) : training_form(question, choices));
        for (std::size_t m = 0; m < question.masks.size(); ++m) {
          sample.targets.push_back(first_mask[static_cast<std::size_t>(q)] + static_cast<std::int32_t>(m));
        }
      }
      if (!sample.conversations.empty()) result.samples.push_back(std::move(sample));
    }
    return result;
  }

 private:
  /// The messages as they stand, the image in front.
  static Conversation whole(const OwnQuestion& question) {
    Conversation conversation{question.messages, question.messages.front()};
    auto& first = conversation.messages.front();
    if (first.find(text::kImageToken) == std::string::npos) first = text::plain_question(first);
    conversation.as_written = true;
    return conversation;
  }

  static Conversation training_form(const OwnQuestion& question, Choices& choices) {
    if (!question.label.empty()) return short_question(question.label, choices);
    if (question.messages.size() > 1) return whole(question);
    const auto& asked = question.messages.front();
    auto form = text::fill(pick_phrase(text::kLongQuestions, choices), asked);
    return {{std::move(form), std::string(pick_phrase(text::kAnswers, choices))}, asked};
  }

  static Conversation validation_form(const OwnQuestion& question) {
    if (question.messages.size() > 1) return whole(question);
    const bool is_sentence = question.label.empty();
    const auto& asked = is_sentence ? question.messages.front() : question.label;
    return {{text::validation_question(asked, is_sentence), std::string(text::kValidationAnswer)}, asked};
  }

  fs::path folder_;
  fs::path path_;
  std::string source_;
  std::int64_t questions_;
  bool validation_;
  std::vector<Item> items_;
  std::vector<OwnRecord> records_;
  std::vector<Problem> problems_;
};

}  // namespace

std::unique_ptr<Reader> own_training(const fs::path& folder, std::int64_t questions) {
  return std::make_unique<Own>(folder, "train.json", questions, false);
}

std::unique_ptr<Reader> own_validation(const fs::path& folder) {
  return std::make_unique<Own>(folder, "val.json", 1, true);
}

}  // namespace tessera::data
