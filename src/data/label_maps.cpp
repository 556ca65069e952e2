// Sets whose annotation is a label map: ADE20K, COCO-Stuff, Mapillary Vistas.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "data/annotation_json.hpp"
#include "data/class_lists.hpp"
#include "data/phrases.hpp"
#include "data/sem_seg_sets.hpp"
#include "tessera/core/file.hpp"
#include "tessera/image/mask.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

constexpr std::uint8_t kIgnore = 255;
const std::string kFamily = "sem_seg";

/// Where a set's files lie and what its pixels mean.
struct LabelMapSet {
  std::string name;
  std::vector<std::string> classes;
  std::string listed;  ///< folder whose files are the items
  std::string listed_suffix;
  std::string images, labels;                ///< folders
  std::array<std::uint8_t, 256> value_of{};  ///< pixel -> class, kIgnore for none
  fs::path classes_file = {};                ///< where the classes are read from; empty: they are built in
};

LabelMapSet with_identity(LabelMapSet set) {
  for (int v = 0; v < 256; ++v) set.value_of[static_cast<std::size_t>(v)] = static_cast<std::uint8_t>(v);
  return set;
}

LabelMapSet ade20k() {
  const std::string images = "ade20k/images/training/";
  auto set = with_identity({"ade20k", ade20k_classes(), images, ".jpg", images, "ade20k/annotations/training/", {}});
  for (int v = 0; v < 256; ++v) {
    set.value_of[static_cast<std::size_t>(v)] = v == 0 ? kIgnore : static_cast<std::uint8_t>(v - 1);
  }
  set.value_of[255] = kIgnore;
  return set;
}

LabelMapSet cocostuff() {
  const std::string labels = "cocostuff/train2017/";
  auto set = with_identity({"cocostuff", cocostuff_classes(), labels, ".png", "coco/train2017/", labels, {}});
  // The leftovers, as "wall-other", are no classes to ask for.
  for (std::size_t c = 0; c < set.classes.size(); ++c) {
    if (set.classes[c].find('-') != std::string::npos) set.value_of[c] = kIgnore;
  }
  return set;
}

LabelMapSet mapillary(const fs::path& dataset_dir) {
  const fs::path config = dataset_dir / "mapillary/config_v2.0.json";
  if (!fs::exists(config)) throw RequestError("--sem_seg_data mapillary: no file '{}'", config.string());
  const auto json = read_annotation_json(config);
  std::vector<std::string> classes;
  const auto& labels = as_array(field(json, "labels", config, ""), config, "labels");
  for (std::size_t i = 0; i < labels.size(); ++i) {
    classes.push_back(ascii_lower(string_field(labels[i], "readable", config, fmt::format("labels[{}]", i))));
  }
  const std::string folder = "mapillary/training/v2.0/labels/";
  auto set = with_identity({"mapillary", std::move(classes), folder, ".png", "mapillary/training/images/", folder, {}});
  set.classes_file = config;
  return set;
}

class LabelMaps final : public Reader {
 public:
  LabelMaps(fs::path dataset_dir, LabelMapSet set, const SemSegConfig& config)
      : dataset_dir_(std::move(dataset_dir)), source_("sem_seg/" + set.name), set_(std::move(set)), config_(config) {
    const auto folder = dataset_dir_ / set_.listed;
    if (!fs::is_directory(folder)) throw RequestError("--sem_seg_data {}: no folder '{}'", set_.name, folder.string());
    for (const auto& path : list_files(folder, {set_.listed_suffix})) {
      const auto stem = path.stem().string();
      items_.push_back({stem, set_.images + stem + ".jpg"});
    }
  }

  const std::string& source() const noexcept override { return source_; }
  const std::string& family() const noexcept override { return kFamily; }
  const std::vector<Item>& items() const noexcept override { return items_; }
  const std::vector<Problem>& problems() const noexcept override { return problems_; }
  std::vector<fs::path> decided_by(std::int64_t item) const override {
    std::vector<fs::path> files{label_path(item)};
    if (!set_.classes_file.empty()) files.push_back(set_.classes_file);
    return files;
  }

  ItemSamples make(std::int64_t item, image::Size size, std::span<Choices> draws) const override {
    const auto path = label_path(item);
    const auto map = read_map(path, size);
    const auto present = classes_in(map, path);
    ItemSamples result;
    if (present.empty()) return result;  // nothing to ask for; the reference draws another image
    std::map<std::uint8_t, std::int32_t> mask_of_class;
    for (auto& choices : draws) {
      Sample sample;
      sample.is_sentence = 0;
      for (const auto i :
           pick_up_to(static_cast<std::int64_t>(present.size()), config_.num_classes_per_sample, choices)) {
        const auto chosen = present[static_cast<std::size_t>(i)];
        sample.conversations.push_back(short_question(set_.classes[chosen], choices));
        const auto [at, fresh] = mask_of_class.try_emplace(chosen, static_cast<std::int32_t>(result.masks.size()));
        if (fresh) result.masks.push_back(mask_of(map, chosen));
        sample.targets.push_back(at->second);
      }
      result.samples.push_back(std::move(sample));
    }
    return result;
  }

 private:
  fs::path label_path(std::int64_t item) const {
    return dataset_dir_ / (set_.labels + items_.at(static_cast<std::size_t>(item)).name + ".png");
  }

  /// The label map with its pixels as classes.
  image::LabelMap read_map(const fs::path& path, image::Size size) const {
    if (!fs::exists(path)) throw BrokenSample({path.string(), "", "the label map is missing"});
    image::LabelMap map;
    try {
      map = image::decode_label_map(image::bytes_of(read_file(path)), "label map");
    } catch (const RequestError& error) {
      throw BrokenSample({path.string(), "", error.what()});
    }
    if (map.size() != size) {
      throw BrokenSample(
          {path.string(), "",
           fmt::format("{} x {} pixels for an image of {} x {}", map.width, map.height, size.width, size.height)});
    }
    for (auto& value : map.values) value = set_.value_of[value];
    return map;
  }

  std::vector<std::uint8_t> classes_in(const image::LabelMap& map, const fs::path& path) const {
    std::array<bool, 256> seen{};
    for (const auto value : map.values) seen[value] = true;
    std::vector<std::uint8_t> present;
    for (std::size_t v = 0; v < kIgnore; ++v) {
      if (!seen[v]) continue;
      if (v >= set_.classes.size()) {
        throw BrokenSample({path.string(), "", fmt::format("class {} of {}", v, set_.classes.size())});
      }
      present.push_back(static_cast<std::uint8_t>(v));
    }
    return present;
  }

  static image::Rle mask_of(const image::LabelMap& map, std::uint8_t chosen) {
    image::Mask mask(map.height, map.width);
    std::transform(map.values.begin(), map.values.end(), mask.data.begin(),
                   [chosen](std::uint8_t value) { return static_cast<std::uint8_t>(value == chosen ? 1 : 0); });
    return image::rle_encode(mask);
  }

  fs::path dataset_dir_;
  std::string source_;
  LabelMapSet set_;
  SemSegConfig config_;
  std::vector<Item> items_;
  std::vector<Problem> problems_;
};

}  // namespace

std::unique_ptr<Reader> label_map_training(const fs::path& dataset_dir, std::string_view set,
                                           const SemSegConfig& config) {
  auto described = set == "ade20k" ? ade20k() : set == "cocostuff" ? cocostuff() : mapillary(dataset_dir);
  return std::make_unique<LabelMaps>(dataset_dir, std::move(described), config);
}

}  // namespace tessera::data
