#pragma once
/// CheckpointWriter: saves while training goes on. A save copies the slices into host memory (pinned beside a GPU), and
/// a thread on every rank writes the copy; a step is held up by the copy alone.
///
///     writer.begin(step, state, {{run / "checkpoints", keep}});     // collective: copies, starts the threads
///     each step: if (auto saved = writer.poll()) …                  // collective; never waits for a disk
///     writer.finish();                                              // collective: waits until all is in place
///
/// Threads touch files only; what ranks must agree on goes over the control communicator in poll, begin and finish, on
/// the thread that calls them. A save passes two stages: each rank writes its files; when all have, rank 0 writes the
/// manifest and renames the folder into place, also on its thread. A save that begins while one is under way waits for
/// it. Memory: as much as masters, moments and averages of this rank take, from the first save on; none
/// without `background`.
///
/// Errors: RunError with the file's name, thrown on every rank by the call that learns of it (a full disk: the next
/// poll); nothing stands under the final name then, and the partial folder is gone.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tessera/shard/checkpoint.hpp"

namespace tessera::shard {

/// Where a checkpoint goes. The first place gets the files; others get hard links to them, or copies on another disk.
struct CheckpointPlace {
  std::filesystem::path root;
  std::int64_t keep = 0;  ///< older ones beyond this many are removed, as by prune_checkpoints; 0: all stay
};

struct SavedCheckpoint {
  std::int64_t step = 0;
  std::vector<std::filesystem::path> folders;
  double write_s = 0;      ///< that the slowest rank took to write and sync its files
  double known_s = 0;      ///< from begin until every rank knew that all is in place
  std::int64_t bytes = 0;  ///< of all ranks' data files
};

struct CheckpointWriterConfig {
  bool background = true;  ///< false: begin() writes the slices themselves and returns when all is in place
};

class CheckpointWriter {
 public:
  /// Engine and optimiser outlive the writer.
  CheckpointWriter(Engine& engine, const Optimizer& optimizer, std::uint64_t frozen_digest,
                   CheckpointWriterConfig config = {});
  /// Calls off what is under way on this rank; its partial folder stays until the next save.
  ~CheckpointWriter();

  /// Starts `step-<step>` in every place. Collective. What an earlier save still under way would have returned from
  /// poll is returned here, in order.
  std::vector<SavedCheckpoint> begin(std::int64_t step, const std::string& trainer_state,
                                     const std::vector<CheckpointPlace>& places);
  /// A save that has come into place since the last call. Collective while one is under way, free otherwise.
  std::optional<SavedCheckpoint> poll();
  /// Waits for what is under way. Collective.
  std::optional<SavedCheckpoint> finish();
  bool under_way() const noexcept;  ///< the same on every rank

  /// Seconds that begin, poll and finish have taken since the last call of this.
  double take_stall() noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::shard
