#pragma once
// What the tests of this room share: a small data set in ReasonSeg's layout made of the sample photographs,
// and a tokenizer.
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "support/support.hpp"
#include "tessera/data/prepare.hpp"
#include "tessera/data/shard.hpp"

namespace tessera::data::toy {

/// The folder of the tests' tokenizer, as --version takes it.
std::filesystem::path model_folder();

/// A photograph of datasets/sample by number (0 … photographs() - 1).
std::filesystem::path photograph(std::size_t number);
std::size_t photographs();

struct ReasonSegItem {
  std::string name;
  std::size_t photograph = 0;
  std::vector<std::string> texts;
  bool is_sentence = false;
  std::string shapes = R"([{"label": "target", "points": [[10, 20], [200, 30], [120, 180]]}])";
};

/// Writes `items` as reason_seg/ReasonSeg/<split>/ under `root`.
void write_reason_seg(const std::filesystem::path& root, const std::string& split,
                      const std::vector<ReasonSegItem>& items);
/// Twelve training and three validation items, two of the training items with an explanation.
void write_small_set(const std::filesystem::path& root);

/// Settings that prepare what write_small_set wrote.
PrepareConfig small_config(const std::filesystem::path& root, const std::filesystem::path& output);

PrepareOutcome prepare(const PrepareConfig& config);

/// Every file of a folder by name, with its content.
std::map<std::string, std::string> files_of(const std::filesystem::path& folder);

}  // namespace tessera::data::toy
