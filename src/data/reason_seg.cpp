#include "tessera/data/reason_seg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "data/annotation_json.hpp"
#include "data/phrases.hpp"
#include "data/reason_seg_annotation.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/split.hpp"
#include "tessera/text/lisa_templates.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

const std::string kFamily = "reason_seg";

/// What an explanatory answer adds to one image.
enum class Explanation { none, seg_alone, seg_and_text, text_alone };

/// Every image of the folder and every JSON without one, by name.
void list_split(const fs::path& dataset_dir, const std::string& split_dir, std::vector<Item>& items,
                std::vector<std::string>& annotations) {
  const fs::path folder = dataset_dir / split_dir;
  if (!fs::is_directory(folder)) {
    throw RequestError("--dataset_dir: no folder '{}'; ReasonSeg is looked for as reason_seg/<set>/<split>",
                       folder.string());
  }
  std::map<std::string, std::string> image_of;  // stem -> image file name, "" where only the JSON is there
  for (const auto& path : list_files(folder, {".json"})) image_of.try_emplace(path.stem().string());
  for (const auto& path : list_files(folder, {".jpg", ".jpeg", ".png"})) {
    image_of[path.stem().string()] = path.filename().string();
  }
  for (const auto& [stem, image] : image_of) {
    items.push_back({split_dir + "/" + stem, split_dir + "/" + (image.empty() ? stem + ".jpg" : image)});
    annotations.push_back(split_dir + "/" + stem + ".json");
  }
}

class ReasonSeg final : public Reader {
 public:
  ReasonSeg(fs::path dataset_dir, std::string source, const std::vector<std::string>& split_dirs,
            ReasonSegConfig config, bool validation)
      : dataset_dir_(std::move(dataset_dir)), source_(std::move(source)), config_(config), validation_(validation) {
    for (const auto& folder : split_dirs) list_split(dataset_dir_, folder, items_, annotations_);
  }

  const std::string& source() const noexcept override { return source_; }
  const std::string& family() const noexcept override { return kFamily; }
  const std::vector<Item>& items() const noexcept override { return items_; }
  const std::vector<Problem>& problems() const noexcept override { return problems_; }
  std::vector<fs::path> decided_by(std::int64_t item) const override {
    std::vector<fs::path> files{dataset_dir_ / annotations_.at(static_cast<std::size_t>(item))};
    if (!explanations_path_.empty()) files.push_back(explanations_path_);
    return files;
  }

  /// The list of explanations, each for one image file.
  void read_explanations(const fs::path& path) {
    explanations_path_ = path;
    const auto json = read_annotation_json(path);
    const auto& list = as_array(json, path, "");
    for (std::size_t i = 0; i < list.size(); ++i) {
      const auto where = fmt::format("[{}]", i);
      explanations_[string_field(list[i], "image", path, where)] = string_field(list[i], "outputs", path, where);
    }
  }

  ItemSamples make(std::int64_t item, image::Size size, std::span<Choices> draws) const override {
    const auto& entry = items_.at(static_cast<std::size_t>(item));
    const fs::path path = dataset_dir_ / annotations_.at(static_cast<std::size_t>(item));
    const auto annotation = read_reason_seg_annotation(path);
    auto drawn = rasterise(annotation, size, config_.polygon_slack, path);

    ItemSamples result;
    result.masks.push_back(std::move(drawn.target));
    if (drawn.ignore) {
      result.ignore_mask = 1;
      result.masks.push_back(std::move(*drawn.ignore));
    }
    const auto explanation = explanations_.find(fs::path(entry.image).filename().string());
    const std::string* text = explanation == explanations_.end() ? nullptr : &explanation->second;
    for (auto& choices : draws) {
      result.samples.push_back(validation_ ? validation_sample(annotation)
                                           : training_sample(annotation, text, choices));
    }
    return result;
  }

 private:
  static Sample validation_sample(const ReasonSegAnnotation& annotation) {
    // As the reference: the first instruction, white space at its ends removed, case kept.
    const std::string text(strip(annotation.texts.front()));
    Sample sample;
    sample.is_sentence = annotation.is_sentence ? 1 : 0;
    sample.conversations.push_back(
        {{text::validation_question(text, annotation.is_sentence), std::string(text::kValidationAnswer)}, text});
    sample.targets.push_back(0);
    return sample;
  }

  Sample training_sample(const ReasonSegAnnotation& annotation, const std::string* explanation,
                         Choices& choices) const {
    Sample sample;
    sample.is_sentence = annotation.is_sentence ? 1 : 0;
    const auto count = static_cast<std::int64_t>(annotation.texts.size());
    const auto picked = pick_up_to(count, config_.num_classes_per_sample, choices);
    auto kind = Explanation::none;
    if (explanation != nullptr) {
      if (choices.chance(config_.explanatory)) {
        kind = Explanation::text_alone;
      } else {
        kind = choices.pick(2) == 0 ? Explanation::seg_alone : Explanation::seg_and_text;
      }
    }
    for (const auto i : picked) {
      const auto& instruction = annotation.texts[static_cast<std::size_t>(i)];
      sample.conversations.push_back(conversation(instruction, annotation.is_sentence, kind, explanation, choices));
      if (kind != Explanation::text_alone) sample.targets.push_back(0);
    }
    return sample;
  }

  static Conversation conversation(const std::string& instruction, bool is_sentence, Explanation kind,
                                   const std::string* explanation, Choices& choices) {
    std::string question;
    std::string answer;
    switch (kind) {
      case Explanation::none:
      case Explanation::seg_alone:
        if (!is_sentence) return short_question(instruction, choices);
        question = text::fill(pick_phrase(text::kLongQuestions, choices), instruction);
        answer = pick_phrase(text::kAnswers, choices);
        break;
      case Explanation::seg_and_text:
        answer = fmt::format("{} {}", pick_phrase(text::kAnswers, choices), *explanation);
        question = text::explanatory_question(
            instruction, static_cast<std::size_t>(choices.pick(text::kExplanatoryQuestions.size())));
        break;
      case Explanation::text_alone:
        question = text::plain_question(instruction);
        answer = *explanation;
        break;
    }
    return {{std::move(question), std::move(answer)}, instruction};
  }

  fs::path dataset_dir_;
  std::string source_;
  ReasonSegConfig config_;
  bool validation_;
  std::vector<Item> items_;
  std::vector<std::string> annotations_;  ///< of each item, relative to the data set folder
  fs::path explanations_path_;
  std::map<std::string, std::string, std::less<>> explanations_;  ///< image file name -> answer
  std::vector<Problem> problems_;
};

/// "train_val" means both folders, unless there is a folder of that very name.
std::vector<std::string> split_dirs(const fs::path& dataset_dir, const std::string& set, const std::string& splits) {
  const std::string base = "reason_seg/" + set + "/";
  if (fs::is_directory(dataset_dir / (base + splits))) return {base + splits};
  std::vector<std::string> folders;
  for (const auto part : split(splits, "_")) folders.push_back(base + std::string(part));
  return folders;
}

}  // namespace

std::unique_ptr<Reader> reason_seg_training(const fs::path& dataset_dir, std::string_view set_and_splits,
                                            const ReasonSegConfig& config) {
  const auto bar = set_and_splits.find('|');
  if (bar == std::string_view::npos || bar == 0 || bar + 1 == set_and_splits.size() ||
      set_and_splits.find('|', bar + 1) != std::string_view::npos) {
    throw RequestError("--reason_seg_data '{}': give SET|SPLIT, as ReasonSeg|train or ReasonSeg|train_val",
                       set_and_splits);
  }
  const std::string set(set_and_splits.substr(0, bar));
  const std::string splits(set_and_splits.substr(bar + 1));
  auto reader = std::make_unique<ReasonSeg>(dataset_dir, fmt::format("reason_seg/{}/{}", set, splits),
                                            split_dirs(dataset_dir, set, splits), config, false);
  if (config.explanatory >= 0) {
    const fs::path path = dataset_dir / "reason_seg" / set / "explanatory" / "train.json";
    if (!fs::exists(path)) {
      throw RequestError("no explanations: '{}' is missing; pass --explanatory -1 to train without them",
                         path.string());
    }
    reader->read_explanations(path);
  }
  return reader;
}

std::unique_ptr<Reader> reason_seg_validation(const fs::path& dataset_dir, std::string_view set, std::string_view split,
                                              const ReasonSegConfig& config) {
  const auto folder = fmt::format("reason_seg/{}/{}", set, split);
  return std::make_unique<ReasonSeg>(dataset_dir, folder, std::vector<std::string>{folder}, config, true);
}

}  // namespace tessera::data
