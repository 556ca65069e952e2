#pragma once
// What one shard holds, counted; it travels between ranks as JSON and ends in the manifest.
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tessera/data/manifest.hpp"
#include "tessera/data/shard.hpp"
#include "tessera/data/shard_file.hpp"

namespace tessera::data {

struct ShardSummary {
  ShardEntry entry;
  std::map<std::string, SourceCounts> counts;  ///< by source
  std::vector<SkippedItem> skipped;
  bool kept = false;  ///< made by an earlier run
};

/// Of a shard on disk at `path`, which will be published as `name`.
ShardSummary summarise(const ShardFile& file, const std::filesystem::path& path, const std::string& name);
/// Of a shard that is not written.
ShardSummary summarise(const ShardData& data, const std::string& split, const std::string& name);

nlohmann::json to_json(const ShardSummary& summary);
ShardSummary shard_summary(const nlohmann::json& json);

}  // namespace tessera::data
