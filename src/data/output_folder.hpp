#pragma once
// The folder that `prepare` writes: whose it is, what of an earlier run can stay, and when files get their final names.
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/shard_summary.hpp"
#include "tessera/core/log.hpp"
#include "tessera/data/manifest.hpp"
#include "tessera/data/plan.hpp"

namespace tessera::data {

class OutputFolder {
 public:
  /// Under `strict` shards lie under names of their own until all is known to be well.
  OutputFolder(std::filesystem::path folder, bool strict, const Log& log)
      : folder_(std::move(folder)), strict_(strict), log_(log) {}

  /// Notes what an earlier run's manifest says of its shards' beginnings. On every rank, before claim().
  void note_heads();
  /// Makes the folder and marks it as unfinished. Throws RequestError when it holds another preparation. One rank.
  void claim(const std::vector<std::string>& planned, const Manifest& unfinished) const;
  /// The summary of a shard that an earlier run has made of the same plan; nothing when there is none.
  std::optional<ShardSummary> kept(const PlannedShard& shard) const;
  std::filesystem::path written_path(const std::string& shard) const;
  /// Everything under its final name, the manifest last, complete. One rank.
  void publish(const std::vector<std::string>& shards, Manifest manifest) const;
  /// Nothing of this run stays. One rank.
  void withdraw(const std::vector<std::string>& shards) const;

 private:
  [[noreturn]] void refuse(const std::filesystem::path& found) const;

  std::filesystem::path folder_;
  bool strict_;
  const Log& log_;
  std::map<std::string, std::string> heads_before_;  ///< by shard
};

}  // namespace tessera::data
