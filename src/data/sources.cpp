#include "data/sources.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "tessera/core/error.hpp"
#include "tessera/data/order.hpp"
#include "tessera/data/reason_seg.hpp"
#include "tessera/data/sem_seg.hpp"
#include "tessera/data/vqa.hpp"

namespace tessera::data {
namespace {

constexpr std::array<std::string_view, 3> kFamilies{"sem_seg", "vqa", "reason_seg"};

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

}  // namespace

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
  if (!whole || parts.size() != 2) {
    throw RequestError("--val_dataset '{}': give SET|SPLIT, as ReasonSeg|val", config.val_dataset);
  }
  readers.push_back(reason_seg_validation(config.dataset_dir, parts[0], parts[1], reason_seg_config(config)));
  return readers;
}

}  // namespace tessera::data
