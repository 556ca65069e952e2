#pragma once
// One rank's part of a checkpoint: its pieces, their copy in host memory, and the two files that hold them.
#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "shard/checkpoint_format.hpp"
#include "tessera/shard/engine.hpp"

namespace tessera::shard {

struct PieceRef {
  format::Entry entry;
  at::Tensor data;  // view of a slice
};

/// The states of every piece this rank owns, in the order of the slices, bytes behind fp32; offsets and checksums not
/// yet set.
std::vector<PieceRef> pieces_of(std::vector<TrainedSlice>& slices);

/// What a data file will hold, known before any data.
struct RankFile {
  explicit RankFile(std::vector<TrainedSlice>& slices);
  std::vector<at::Tensor> data;  // of table.entries[i]
  format::Table table;
  std::string header;
};

/// The image of a data file in host memory, at an address from which a disk may read it. Kept between saves.
class Snapshot {
 public:
  explicit Snapshot(bool pinned) noexcept : pinned_(pinned) {}
  /// Copies header and slices; returns when the slices may change again.
  void take(const RankFile& file);
  const std::byte* data() const noexcept { return begin_; }

 private:
  void reserve(std::size_t bytes);
  bool pinned_;
  at::Tensor memory_;
  std::byte* begin_ = nullptr;  // the first aligned byte of memory_
  std::size_t capacity_ = 0;
};

/// Write `stem.safetensors` and `stem.json` and sync them. From a copy in host memory, or from the slices themselves.
/// Throw RunError naming the file; once *cancelled, soon.
format::FileRow write_rank_files(const std::filesystem::path& folder, const std::string& stem, RankFile file,
                                 const Snapshot& snapshot, const std::atomic<bool>* cancelled);
format::FileRow write_rank_files(const std::filesystem::path& folder, const std::string& stem, RankFile file);

}  // namespace tessera::shard
