#pragma once
/// Shards: all shards of one split as one table of samples, opened and checked before anything is trained on.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tessera/data/order.hpp"
#include "tessera/data/shard_file.hpp"

namespace tessera::data {

/// What the model that will read them needs; an empty or absent value is not checked.
struct ShardRequirements {
  std::string tokenizer_hash = {};  ///< text::Tokenizer::content_hash()
  std::string conversation_template = {};
  std::string recipe = {};  ///< "lisa" or "llava"
};

/// The shard files of `folders`: folders or single .h5 files, separated by ',', each folder in order of name. Throws
/// RequestError: nothing there, a folder that `prepare` has not finished, files that are not those of its manifest.
std::vector<std::filesystem::path> shard_paths(const std::string& folders);

class Shards {
 public:
  /// Opens every shard of `split` in `folders` (a folder, or several separated by ','; a single .h5 file is taken too),
  /// in order of name. Throws RequestError naming the file: missing, cut short or of another size than the manifest
  /// says, another version, tokenizer or template; no shard of that split at all.
  static Shards open(const std::string& folders, const std::string& split, const ShardRequirements& requirements);

  std::int64_t size() const noexcept { return static_cast<std::int64_t>(rows_.size()); }
  const ShardHeader& header() const { return files_.front().header(); }
  const std::vector<ShardFile>& files() const noexcept { return files_; }

  /// What towers made of the images, for every shard; towers whose features not all shards have are left out. Throws
  /// RequestError naming two files whose features are of different towers.
  std::vector<TowerFeatures> features() const;

  StoredSample read(std::int64_t row, const ReadImages& what = {}) const;
  SampleSizes sizes_of(std::int64_t row) const;
  const std::string& source_of(std::int64_t row) const;
  const std::string& family_of(std::int64_t row) const;

  /// Items by source, for MixtureOrder.
  std::vector<SourcePopulation> populations() const;
  /// Rows in the order of evaluation: first draw of every item, in the order in which the shards hold them.
  std::vector<std::int64_t> evaluation_rows() const;

 private:
  struct Row {
    std::int32_t file = 0;
    std::int32_t source = 0;  ///< into sources_
    std::int64_t sample = 0;
  };
  const Row& row(std::int64_t index) const { return rows_.at(static_cast<std::size_t>(index)); }

  std::vector<ShardFile> files_;
  std::vector<SourcePopulation> sources_;  ///< names and families, without items
  std::vector<Row> rows_;
};

}  // namespace tessera::data
