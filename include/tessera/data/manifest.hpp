#pragma once
/// Manifest: what a prepared folder holds, in `manifest.json`. Source of its fields: datasets/FORMAT.md.
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tessera/data/problem.hpp"

namespace tessera::data {

inline constexpr char kManifestName[] = "manifest.json";

struct ShardEntry {
  std::string name;
  std::string split;
  std::int64_t bytes = 0;
  std::string xxh3;  ///< XXH3-128 of the file
  std::string head;  ///< of its first 64 KiB, where what HDF5 does not check itself lies; may be empty
  std::int64_t images = 0;
  std::int64_t samples = 0;
};

/// Counts of one source in one split.
struct SourceCounts {
  std::string family;
  std::int64_t items = 0;
  std::int64_t samples = 0;
  std::int64_t conversations = 0;
  std::int64_t targets = 0;
  std::int64_t tokens = 0;
  std::int64_t skipped = 0;  ///< items
  SourceCounts& operator+=(const SourceCounts& other);
};

struct SkippedItem {
  Problem problem;
  std::string source;
};

struct Manifest {
  bool complete = true;  ///< false while `prepare` is at work, or after it was stopped
  std::string made_by;
  std::string command_line;
  std::string tokenizer_hash;
  std::map<std::string, SourceCounts> counts;  ///< by "<split>: <source>"
  std::vector<SkippedItem> skipped;
  std::vector<ShardEntry> shards;
};

/// ShardEntry::head of a file. Throws RequestError when it cannot be read.
std::string head_hash(const std::filesystem::path& path);

/// Throws RequestError naming the file and the field.
Manifest read_manifest(const std::filesystem::path& path);
/// Whole or not at all.
void write_manifest(const std::filesystem::path& path, const Manifest& manifest);

}  // namespace tessera::data
