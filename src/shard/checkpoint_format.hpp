#pragma once
// The files of a checkpoint as values: what stands in the manifest and in a rank's table, and how each is guarded.
// Every byte of the folder is covered by a checksum: the manifest ends with its own, holds those of the tables, and a
// table holds those of its data file, header included.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tessera/core/file.hpp"
#include "tessera/shard/checkpoint.hpp"

namespace tessera::shard::format {

constexpr int kFormat = 2;
constexpr const char* kManifest = "manifest.json";
/// Elements under one checksum: 4 MiB of fp32, what a reader needs to hold beside the slices.
constexpr std::int64_t kBlock = std::int64_t{1} << 20;

/// A piece of one tensor's state in a rank's data file.
struct Entry {
  std::string tensor;
  std::string state;                              // StatePart::name
  std::int64_t begin = 0, count = 0, offset = 0;  // elements, elements, bytes in the file
  std::vector<std::uint64_t> blocks;              // XXH3-64 of each kBlock elements, from `begin`
  int size = 4;                                   // bytes of an element: 4 (F32) or 1 (U8)
  std::int64_t bytes() const noexcept { return count * size; }
};

/// What `rank-….json` says of `rank-….safetensors`. The pieces follow the header without gaps.
struct Table {
  std::int64_t header_bytes = 0;
  std::uint64_t header_checksum = 0;
  std::vector<Entry> entries;
  std::int64_t file_bytes() const noexcept;
};

struct FileRow {
  std::string stem;
  std::int64_t bytes = 0;  // of the data file
  std::uint64_t table_checksum = 0;
};

struct Manifest {
  CheckpointInfo info;
  std::vector<FileRow> files;
};

std::string rank_stem(int rank, int ranks);
std::string hex(std::uint64_t v);

/// The safetensors header of the pieces, padded so that data begin at a multiple of 4096 bytes; sets their offsets.
std::string make_header(std::vector<Entry>& entries);

std::string encode(const Table& table);
std::string encode(const FileRow& row);
FileRow decode_row(const std::string& text);
std::string encode(const Manifest& manifest);

/// Throw RequestError naming the file when it is missing, damaged, or of another format.
Manifest read_manifest_file(const std::filesystem::path& folder);
Table read_table(const std::filesystem::path& folder, const FileRow& row);
InputFile open_data(const std::filesystem::path& folder, const FileRow& row);
void check_header(const InputFile& data, const Table& table);
/// Reads block `index` of a piece into `out` and checks it.
void read_block(const InputFile& data, const Entry& entry, std::size_t index, void* out);

}  // namespace tessera::shard::format
