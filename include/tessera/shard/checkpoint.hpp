#pragma once
/// Checkpoints of what trains: fp32 masters and the optimiser's states, as slices, for any number of ranks.
///
/// Folder `step-N/`, complete whenever it exists under that name:
///   manifest.json                 format, program, step, ranks, digest of the frozen base, trained tensors (name,
///                                 shape), the trainer's own state, per rank file its size and its table's checksum;
///                                 last, the checksum of all that stands before it
///   rank-RRRRR-of-WWWWW.json      table: checksum of the data file's header; per piece its tensor, element range, byte
///                                 offset, element size and a checksum for each 2^20 elements
///   rank-RRRRR-of-WWWWW.safetensors  the pieces, names are `<tensor>[begin:end].<state>`; states, as far as the run
///                                 has them: master, exp_avg, exp_avg_sq, average, of AdaLoRA's adapters sensitivity
///                                 and uncertainty (F32); of 8-bit moments exp_avg_codes, exp_avg_sq_codes (U8, behind
///                                 all others) and exp_avg_scales, exp_avg_sq_scales (F32, begin and end in blocks of
///                                 kMomentBlock)
/// Checksums are XXH3-64; together they cover every byte of the folder. It is written as `.step-N.partial/`, synced,
/// and renamed when every rank is done. The frozen base is not in it; its digest is, and another base is refused.
/// checkpoint_writer.hpp writes them while training goes on.
/// Source: layout after torch.distributed.checkpoint (one data file a rank, global offsets in a table).
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tessera/shard/engine.hpp"
#include "tessera/shard/optimizer.hpp"

namespace tessera::shard {

struct CheckpointInfo {
  std::int64_t step = 0;
  int ranks = 0;
  std::uint64_t frozen_digest = 0;
  std::int64_t optimizer_steps = 0;
  std::string optimizer = "adamw";  ///< name_of its kind; absent in older files
  bool average = false;             ///< holds averages of the trained weights
  std::string trainer_state;        ///< JSON text, the trainer's own
  std::string program;              ///< version that wrote it
  struct Tensor {
    std::string name;
    std::vector<std::int64_t> shape;
  };
  std::vector<Tensor> tensors;
  struct File {
    std::string stem;
    std::int64_t bytes = 0;
  };
  std::vector<File> files;  ///< the data files, by rank
  std::int64_t bytes = 0;   ///< of all of them
};

/// Writes `root/step-<step>` and returns when it is whole. Collective; an error on one rank is thrown on all, and
/// leaves nothing under the name.
void save_checkpoint(const std::filesystem::path& root, std::int64_t step, Engine& engine, const Optimizer& optimizer,
                     std::uint64_t frozen_digest, const std::string& trainer_state);

/// Reads the slices this rank owns, whatever number of ranks wrote them, straight into place and at most 4 MiB at a
/// time besides. Together the ranks check every byte of the folder. Collective.
/// Throws RequestError when the checkpoint is damaged (names the file), of another base, or of other trained tensors
/// (names the first ones).
CheckpointInfo load_checkpoint(const std::filesystem::path& folder, Engine& engine, Optimizer& optimizer,
                               std::uint64_t frozen_digest);

/// The manifest alone. Throws RequestError naming the file when it is missing or damaged.
CheckpointInfo read_manifest(const std::filesystem::path& folder);

/// Lines for people: step, ranks, program, digest of the base, trainer's state, files and tensors with their sizes.
/// Throws as read_manifest does.
std::string describe_checkpoint(const std::filesystem::path& folder);

/// Checks every byte against its checksum; returns one line a problem. Throws as read_manifest does.
std::vector<std::string> verify_checkpoint(const std::filesystem::path& folder);

/// Whole checkpoints in `root`, oldest first.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& root);

/// Puts back what a process killed between two renames left aside, and removes what stopped writes left. Call on one
/// rank, while none writes.
void tidy_checkpoints(const std::filesystem::path& root);

/// After `step` was written: removes what is older than the newest `keep`, that one included, and checkpoints of later
/// steps, which belong to a course that the run has left. Call on one rank.
void prune_checkpoints(const std::filesystem::path& root, std::int64_t step, std::int64_t keep);

}  // namespace tessera::shard
