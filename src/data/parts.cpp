// Sets of objects' parts in COCO's layout: PACO-LVIS, Pascal-Part.
#include <fmt/format.h>

#include <map>

#include "data/annotation_json.hpp"
#include "data/coco.hpp"
#include "data/phrases.hpp"
#include "data/sem_seg_sets.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

const std::string kFamily = "sem_seg";

struct PartName {
  std::string object;
  std::string part;  ///< empty: the object itself
};

/// "cup_(drink):handle": what stands in brackets only tells namesakes apart (PACO).
std::string without_bracket(std::string_view name) {
  return std::string(name.substr(0, name.find("_(")));
}

PartName part_name(std::string_view category) {
  const auto name = strip(category);
  const auto colon = name.find(':');
  if (colon == std::string_view::npos) return {without_bracket(name), ""};
  return {without_bracket(name.substr(0, colon)), without_bracket(name.substr(colon + 1))};
}

class Parts final : public Reader {
 public:
  Parts(std::string_view set, const fs::path& json, const std::string& image_folder, const SemSegConfig& config)
      : source_(fmt::format("sem_seg/{}", set)), config_(config) {
    if (!fs::exists(json)) throw RequestError("--sem_seg_data {}: no file '{}'", set, json.string());
    coco_ = read_coco(json);
    problems_ = coco_.problems;
    for (const auto& image : coco_.images) {
      items_.push_back({fmt::format("image {}", image.id), image_folder + image.file_name});
    }
    annotations_.resize(items_.size());
    for (std::size_t a = 0; a < coco_.annotations.size(); ++a) {
      const auto& annotation = coco_.annotations[a];
      const auto image = coco_.image_row.find(annotation.image_id);
      if (image == coco_.image_row.end()) {
        problems_.push_back(
            {json.string(), annotation.where, fmt::format("image {} does not exist", annotation.image_id)});
      } else if (!coco_.categories.contains(annotation.category_id)) {
        problems_.push_back(
            {json.string(), annotation.where, fmt::format("category {} does not exist", annotation.category_id)});
      } else {
        annotations_[image->second].push_back(a);
      }
    }
  }

  const std::string& source() const noexcept override { return source_; }
  const std::string& family() const noexcept override { return kFamily; }
  const std::vector<Item>& items() const noexcept override { return items_; }
  const std::vector<Problem>& problems() const noexcept override { return problems_; }
  std::vector<fs::path> decided_by(std::int64_t) const override { return {coco_.path}; }

  ItemSamples make(std::int64_t item, image::Size size, std::span<Choices> draws) const override {
    const auto row = static_cast<std::size_t>(item);
    const auto& own = annotations_.at(row);
    ItemSamples result;
    if (own.empty()) return result;
    if (coco_.images[row].size != size) {
      throw BrokenSample({coco_.path.string(), items_[row].name,
                          fmt::format("the image is {} x {} pixels, the annotations say {} x {}", size.width,
                                      size.height, coco_.images[row].size.width, coco_.images[row].size.height)});
    }
    std::map<std::size_t, std::int32_t> mask_of_annotation;
    for (auto& choices : draws) {
      Sample sample;
      sample.is_sentence = 0;
      for (const auto i : pick_up_to(static_cast<std::int64_t>(own.size()), config_.num_classes_per_sample, choices)) {
        const auto a = own[static_cast<std::size_t>(i)];
        sample.conversations.push_back(short_question(phrase_of(coco_.annotations[a], choices), choices));
        const auto [at, fresh] = mask_of_annotation.try_emplace(a, static_cast<std::int32_t>(result.masks.size()));
        if (fresh) result.masks.push_back(target_of(a, own, size));
        sample.targets.push_back(at->second);
      }
      result.samples.push_back(std::move(sample));
    }
    return result;
  }

 private:
  std::string phrase_of(const CocoAnnotation& annotation, Choices& choices) const {
    const auto name = part_name(coco_.categories.at(annotation.category_id));
    if (name.part.empty()) return name.object;
    return choices.chance(0.5) ? name.object + " " + name.part
                               : fmt::format("the {} of the {}", name.part, name.object);
  }

  image::Rle target_of(std::size_t chosen, const std::vector<std::size_t>& own, image::Size size) const {
    if (!config_.part_union) return mask_of(coco_.annotations[chosen], size, coco_.path);
    std::vector<image::Rle> parts;
    for (const auto a : own) {
      if (coco_.annotations[a].category_id == coco_.annotations[chosen].category_id) {
        parts.push_back(mask_of(coco_.annotations[a], size, coco_.path));
      }
    }
    return image::rle_merge(parts);
  }

  std::string source_;
  SemSegConfig config_;
  CocoFile coco_;
  std::vector<Item> items_;
  std::vector<std::vector<std::size_t>> annotations_;  ///< rows, of each item
  std::vector<Problem> problems_;
};

}  // namespace

std::unique_ptr<Reader> part_training(const fs::path& dataset_dir, std::string_view set, const SemSegConfig& config) {
  if (set == "paco_lvis") {
    return std::make_unique<Parts>(set, dataset_dir / "vlpart/paco/annotations/paco_lvis_v1_train.json", "coco/",
                                   config);
  }
  return std::make_unique<Parts>(set, dataset_dir / "vlpart/pascal_part/train.json",
                                 "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages/", config);
}

}  // namespace tessera::data
