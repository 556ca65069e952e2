#include "data/output_folder.hpp"

#include <set>

#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/data/shard_file.hpp"

namespace tessera::data {

namespace fs = std::filesystem;

fs::path OutputFolder::written_path(const std::string& shard) const {
  return folder_ / (strict_ ? shard + ".unpublished" : shard);
}

void OutputFolder::note_heads() {
  const auto path = folder_ / kManifestName;
  if (!fs::exists(path)) return;
  for (const auto& shard : read_manifest(path).shards) {
    if (!shard.head.empty()) heads_before_.emplace(shard.name, shard.head);
  }
}

void OutputFolder::claim(const std::vector<std::string>& planned, const Manifest& unfinished) const {
  make_directories(folder_);
  const std::set<std::string> ours(planned.begin(), planned.end());
  for (const auto& path : list_files(folder_, {".h5"})) {
    if (!ours.contains(path.filename().string())) refuse(path);
  }
  // What a run left half-written when it was killed.
  for (const auto& entry : fs::directory_iterator(folder_)) {
    const auto name = entry.path().filename().string();
    const auto end = name.find(".partial-");
    if (end != std::string::npos && name.starts_with('.') && ours.contains(name.substr(1, end - 1)))
      fs::remove(entry.path());
  }
  const auto manifest_path = folder_ / kManifestName;
  if (fs::exists(manifest_path) && read_manifest(manifest_path).made_by != unfinished.made_by) refuse(manifest_path);
  // Under --strict nothing gets a final name before all is known to be well, not even the mark of an unfinished run.
  if (!strict_) write_manifest(manifest_path, unfinished);
}

void OutputFolder::refuse(const fs::path& found) const {
  throw RequestError("--output_dir '{}' holds '{}' of another preparation; name another folder, or empty this one",
                     folder_.string(), found.filename().string());
}

std::optional<ShardSummary> OutputFolder::kept(const PlannedShard& shard) const {
  for (const auto& path : {folder_ / shard.name, written_path(shard.name)}) {
    if (!fs::exists(path)) continue;
    try {
      if (const auto head = heads_before_.find(path.filename().string());
          head != heads_before_.end() && head->second != head_hash(path)) {
        throw RequestError("shard '{}' is not what was written", path.string());
      }
      const ShardFile file(path);
      if (file.header().plan == shard.fingerprint) return summarise(file, path, shard.name);
      log_.info("shard '{}' is made again: its data set has changed since", path.string());
    } catch (const RequestError& error) {
      log_.warn("{}; it is made again", error.what());
    }
  }
  return {};
}

void OutputFolder::publish(const std::vector<std::string>& shards, Manifest manifest) const {
  const auto manifest_path = folder_ / kManifestName;
  if (strict_) {
    manifest.complete = false;
    write_manifest(manifest_path, manifest);
    for (const auto& shard : shards) {
      if (const auto path = written_path(shard); fs::exists(path)) fs::rename(path, folder_ / shard);
    }
    sync_directory(folder_);
  }
  manifest.complete = true;
  write_manifest(manifest_path, manifest);
}

void OutputFolder::withdraw(const std::vector<std::string>& shards) const {
  std::error_code ignored;
  for (const auto& shard : shards) fs::remove(written_path(shard), ignored);
  if (!strict_) fs::remove(folder_ / kManifestName, ignored);  // under --strict it is not this run's
  fs::remove(folder_, ignored);                                // only when it is empty
}

}  // namespace tessera::data
