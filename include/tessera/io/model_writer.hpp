#pragma once
/// Writes a model's weights as transformers does: model.safetensors, or model-00001-of-0000N.safetensors with
/// model.safetensors.index.json where they exceed the shard size. The layout is planned from names and shapes alone, so
/// that a model of any size is written one unit at a time.
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/io/safetensors.hpp"

namespace tessera::io {

struct ShardPlan {
  struct File {
    std::string name;
    std::vector<TensorInfo> table;
    std::int64_t bytes = 0;  ///< of the tensors
  };
  std::vector<File> files;
  std::int64_t total_bytes = 0;
};

/// Tensors in the order of `table`; a file is closed when the next tensor would exceed `shard_bytes`, and a tensor
/// larger than that has a file of its own. `stem`: "model". Throws RunError for a table with a name twice.
ShardPlan plan_shards(const std::vector<TensorInfo>& table, std::int64_t shard_bytes,
                      const std::string& stem = "model");

/// transformers' max_shard_size: bytes, or a number with KB, MB, GB (of 1000) or KiB, MiB, GiB (of 1024), "5GB".
/// Throws RequestError for anything else and for sizes below one byte.
std::int64_t shard_bytes_from_text(std::string_view text);

class ModelWriter {
 public:
  static constexpr std::int64_t kDefaultShardBytes = 5'000'000'000;  ///< transformers' "5GB"

  ModelWriter(std::filesystem::path directory, const std::vector<TensorInfo>& table,
              std::int64_t shard_bytes = kDefaultShardBytes, Metadata metadata = {{"format", "pt"}},
              std::string stem = "model");
  /// Elements [begin, begin + count) of `name`, in the table's type. A file is open from its first piece to its last;
  /// in table order at most one is open at a time.
  void write(std::string_view name, std::int64_t begin, std::int64_t count, const void* data);
  /// Throws RunError when a tensor is not whole. Writes the index last, then removes weight files of an earlier save
  /// under the same stem, which a loader would take for this one's.
  void commit();
  const ShardPlan& plan() const noexcept { return plan_; }

 private:
  struct Shard {
    std::optional<SafetensorsWriter> writer;
    std::int64_t missing = 0;  ///< elements still to come
    bool done = false;
  };
  void remove_stale() const;
  std::filesystem::path directory_;
  Metadata metadata_;
  std::string stem_;
  ShardPlan plan_;
  std::vector<Shard> shards_;
  std::map<std::string, std::size_t, std::less<>> shard_of_;
};

}  // namespace tessera::io
