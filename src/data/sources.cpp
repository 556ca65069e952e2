#include "data/sources.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <set>

#include "tessera/core/error.hpp"
#include "tessera/core/split.hpp"
#include "tessera/data/llava.hpp"
#include "tessera/data/order.hpp"
#include "tessera/data/own.hpp"
#include "tessera/data/reason_seg.hpp"
#include "tessera/data/refer_seg.hpp"
#include "tessera/data/sem_seg.hpp"
#include "tessera/data/vqa.hpp"

namespace tessera::data {
namespace {

constexpr std::array<std::string_view, 6> kFamilies{"sem_seg", "refer_seg", "vqa", "reason_seg", "llava", "own"};

ReasonSegConfig reason_seg_config(const PrepareConfig& config) {
  return {config.num_classes_per_sample, config.explanatory, config.polygon_slack};
}

/// As ml-fastvlm's list of values, or in one value with || between them; the same may come twice.
std::vector<std::string> listed(const std::vector<std::string>& values) {
  std::vector<std::string> parts;
  for (const auto& value : values) {
    for (const auto part : split(value, "||")) parts.emplace_back(part);
  }
  return parts;
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

PrepareConfig find_sets(const PrepareConfig& config, std::vector<std::string>& left_out) {
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
  if (!config.data_path.empty()) families.emplace_back("llava");
  if (!config.own_data.empty()) families.emplace_back("own");
  if (families.empty()) {
    throw RequestError("--dataset_dir '{}' holds no data set: {}", config.dataset_dir, fmt::join(left_out, ", "));
  }
  found.dataset = fmt::format("{}", fmt::join(families, "||"));
  return found;
}

void settle_recipe(PrepareConfig& config) {
  const auto families = config.dataset.empty() ? std::vector<std::string>() : parse_families(config.dataset);
  if (config.recipe == "auto") config.recipe = families == std::vector<std::string>{"llava"} ? "llava" : "lisa";
  const bool lisa = config.recipe == "lisa";
  if (!config.model_max_length) config.model_max_length = lisa ? 512 : 2048;
  if (!config.use_mm_start_end) config.use_mm_start_end = lisa;
  if (lisa) return;
  for (const auto& family : families) {
    if (family != "llava" && family != "vqa" && family != "own") {
      throw RequestError("--recipe llava: family '{}' has masks, which LLaVA does not learn; leave it out of --dataset",
                         family);
    }
  }
}

/// Files of the family llava with their image folders.
std::vector<std::unique_ptr<Reader>> llava_readers(const PrepareConfig& config) {
  if (config.data_path.empty()) throw RequestError("--data_path is missing: the files of family 'llava'");
  const auto files = listed(config.data_path);
  const auto folders = listed(config.image_folder);
  if (folders.size() > 1 && folders.size() != files.size()) {
    throw RequestError("--image_folder names {} folders for {} files of --data_path; give one for all, or one each",
                       folders.size(), files.size());
  }
  std::vector<std::unique_ptr<Reader>> readers;
  std::map<std::string, int> times;  // a file's name was there
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (files[i].empty()) throw RequestError("--data_path '{}': a name is empty", fmt::join(config.data_path, " "));
    const auto folder = folders.empty() ? std::string() : folders[std::min(i, folders.size() - 1)];
    if (!folder.empty() && !std::filesystem::is_directory(folder)) {
      throw RequestError("--image_folder: no folder '{}'", folder);
    }
    const auto stem = std::filesystem::path(files[i]).stem().string();
    const int before = times[stem]++;
    readers.push_back(llava_training(files[i], folder, before == 0 ? stem : fmt::format("{}#{}", stem, before + 1)));
  }
  return readers;
}

void refuse_equal_sources(const std::vector<std::unique_ptr<Reader>>& readers) {
  std::set<std::string> names;
  for (const auto& reader : readers) {
    if (!names.insert(reader->source()).second) {
      throw RequestError("two data sets are called '{}'; rename one's file or folder", reader->source());
    }
  }
}

}  // namespace

PrepareConfig with_sets_found(const PrepareConfig& config, std::vector<std::string>& left_out) {
  auto found = find_sets(config, left_out);
  settle_recipe(found);
  if (found.val_dataset == "auto") {
    // Where ReasonSeg is asked for, its validation split has to be there.
    const bool wanted = found.dataset.find("reason_seg") != std::string::npos;
    const bool there =
        std::filesystem::is_directory(std::filesystem::path(found.dataset_dir) / "reason_seg/ReasonSeg/val");
    found.val_dataset = found.recipe == "lisa" && (wanted || there) ? "ReasonSeg|val" : "";
    if (found.val_dataset.empty()) left_out.push_back("validation samples: name a set with --val_dataset");
  }
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
    } else if (family == "llava") {
      for (auto& reader : llava_readers(config)) readers.push_back(std::move(reader));
    } else if (family == "own") {
      if (config.own_data.empty()) throw RequestError("--own_data is missing: the folders of family 'own'");
      for (const auto& folder : parse_names("--own_data", config.own_data)) {
        readers.push_back(own_training(folder, config.num_classes_per_sample));
      }
    } else {
      throw RequestError("--dataset: no reader for family '{}'; there are {}", family, fmt::join(kFamilies, ", "));
    }
  }
  refuse_equal_sources(readers);
  return readers;
}

std::vector<std::unique_ptr<Reader>> validation_readers(const PrepareConfig& config) {
  std::vector<std::unique_ptr<Reader>> readers;
  if (config.val_dataset.empty()) return readers;
  const auto parts = split(config.val_dataset, "|");
  const bool whole = std::none_of(parts.begin(), parts.end(), [](const auto& part) { return part.empty(); });
  if (config.recipe != "lisa")
    throw RequestError("--val_dataset: only recipe lisa validates on masks; pass an empty one");
  if (whole && parts.size() == 2 && parts[0] == "own") {
    readers.push_back(own_validation(parts[1]));
  } else if (whole && parts.size() == 2) {
    readers.push_back(reason_seg_validation(config.dataset_dir, parts[0], parts[1], reason_seg_config(config)));
  } else if (whole && parts.size() == 3) {
    readers.push_back(refer_seg_validation(config.dataset_dir, parts[0], parts[1], parts[2]));
  } else {
    throw RequestError(
        "--val_dataset '{}': give SET|SPLIT, as ReasonSeg|val, or SET|BY|SPLIT, as refcoco|unc|testA, or own|FOLDER",
        config.val_dataset);
  }
  return readers;
}

}  // namespace tessera::data
