#include "data/sources.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "tessera/core/error.hpp"
#include "tessera/data/order.hpp"
#include "tessera/data/reason_seg.hpp"
#include "tessera/data/refer_seg.hpp"
#include "tessera/data/sem_seg.hpp"
#include "tessera/data/vqa.hpp"

namespace tessera::data {
namespace {

constexpr std::array<std::string_view, 4> kFamilies{"sem_seg", "refer_seg", "vqa", "reason_seg"};

ReasonSegConfig reason_seg_config(const PrepareConfig& config) {
  return {config.num_classes_per_sample, config.explanatory, config.polygon_slack};
}

std::vector<std::string> split_bars(std::string_view text) {
  std::vector<std::string> parts;
  for (;;) {
    const auto end = text.find('|');
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

/// The file or folder without which a set is not there.
std::string root_of(std::string_view family, const std::string& set) {
  if (family == "refer_seg") return "refer_seg/" + set;
  if (family == "vqa") return "llava_dataset/" + set + ".json";
  if (family == "reason_seg") return "reason_seg/" + set.substr(0, set.find('|'));
  if (set == "paco_lvis") return "vlpart/paco";
  if (set == "pascal_part") return "vlpart/pascal_part";
  return set;
}

}  // namespace

PrepareConfig with_sets_found(const PrepareConfig& config, std::vector<std::string>& left_out) {
  if (config.dataset != "auto") return config;
  auto found = config;
  std::vector<std::string> families;
  const auto keep = [&](std::string_view family, std::string_view flag, std::string& sets) {
    std::vector<std::string> there;
    for (const auto& set : parse_names(flag, sets)) {
      const auto root = root_of(family, set);
      if (std::filesystem::exists(std::filesystem::path(config.dataset_dir) / root)) {
        there.push_back(set);
      } else {
        left_out.push_back(fmt::format("{} {} (no '{}')", family, set, root));
      }
    }
    if (there.empty()) return;
    families.emplace_back(family);
    sets = fmt::format("{}", fmt::join(there, "||"));
  };
  keep("sem_seg", "--sem_seg_data", found.sem_seg_data);
  keep("refer_seg", "--refer_seg_data", found.refer_seg_data);
  keep("vqa", "--vqa_data", found.vqa_data);
  keep("reason_seg", "--reason_seg_data", found.reason_seg_data);
  if (families.empty()) {
    throw RequestError("--dataset_dir '{}' holds no data set: {}", config.dataset_dir, fmt::join(left_out, ", "));
  }
  found.dataset = fmt::format("{}", fmt::join(families, "||"));
  return found;
}

std::vector<std::unique_ptr<Reader>> training_readers(const PrepareConfig& config) {
  std::vector<std::unique_ptr<Reader>> readers;
  if (config.dataset.empty()) return readers;
  for (const auto& family : parse_families(config.dataset)) {
    if (family == "reason_seg") {
      readers.push_back(reason_seg_training(config.dataset_dir, config.reason_seg_data, reason_seg_config(config)));
    } else if (family == "sem_seg") {
      for (const auto& set : parse_names("--sem_seg_data", config.sem_seg_data)) {
        readers.push_back(
            sem_seg_training(config.dataset_dir, set, {config.num_classes_per_sample, config.part_union}));
      }
    } else if (family == "refer_seg") {
      for (const auto& set : parse_names("--refer_seg_data", config.refer_seg_data)) {
        readers.push_back(refer_seg_training(config.dataset_dir, set, config.num_classes_per_sample));
      }
    } else if (family == "vqa") {
      for (const auto& name : parse_names("--vqa_data", config.vqa_data)) {
        readers.push_back(vqa_training(config.dataset_dir, name));
      }
    } else {
      throw RequestError("--dataset: no reader for family '{}'; there are {}", family, fmt::join(kFamilies, ", "));
    }
  }
  return readers;
}

std::vector<std::unique_ptr<Reader>> validation_readers(const PrepareConfig& config) {
  std::vector<std::unique_ptr<Reader>> readers;
  if (config.val_dataset.empty()) return readers;
  const auto parts = split_bars(config.val_dataset);
  const bool whole = std::none_of(parts.begin(), parts.end(), [](const auto& part) { return part.empty(); });
  if (whole && parts.size() == 2) {
    readers.push_back(reason_seg_validation(config.dataset_dir, parts[0], parts[1], reason_seg_config(config)));
  } else if (whole && parts.size() == 3) {
    readers.push_back(refer_seg_validation(config.dataset_dir, parts[0], parts[1], parts[2]));
  } else {
    throw RequestError("--val_dataset '{}': give SET|SPLIT, as ReasonSeg|val, or SET|BY|SPLIT, as refcoco|unc|testA",
                       config.val_dataset);
  }
  return readers;
}

}  // namespace tessera::data
