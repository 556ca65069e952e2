#include "tessera/data/manifest.hpp"

#include <fstream>
#include <nlohmann/json.hpp>

#include "data/annotation_json.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/hash.hpp"

namespace tessera::data {

using nlohmann::json;

SourceCounts& SourceCounts::operator+=(const SourceCounts& other) {
  if (family.empty()) family = other.family;
  items += other.items;
  samples += other.samples;
  conversations += other.conversations;
  targets += other.targets;
  tokens += other.tokens;
  skipped += other.skipped;
  return *this;
}

std::string head_hash(const std::filesystem::path& path) {
  constexpr std::size_t kHead = std::size_t{64} << 10;
  std::ifstream file(path, std::ios::binary);
  std::string bytes(kHead, '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(kHead));
  if (file.bad() || (file.fail() && !file.eof())) throw RequestError("cannot read '{}'", path.string());
  bytes.resize(static_cast<std::size_t>(file.gcount()));
  return hash_hex128(bytes);
}

void write_manifest(const std::filesystem::path& path, const Manifest& manifest) {
  json out = {{"format", "tessera-prepared"},
              {"format_version", {1, 0}},
              {"complete", manifest.complete},
              {"made_by", manifest.made_by},
              {"command_line", manifest.command_line},
              {"tokenizer_hash", manifest.tokenizer_hash},
              {"counts", json::object()},
              {"skipped", json::array()},
              {"shards", json::array()}};
  for (const auto& [name, c] : manifest.counts) {
    out["counts"][name] = {
        {"family", c.family},   {"items", c.items},   {"samples", c.samples}, {"conversations", c.conversations},
        {"targets", c.targets}, {"tokens", c.tokens}, {"skipped", c.skipped}};
  }
  for (const auto& item : manifest.skipped) {
    out["skipped"].push_back({{"source", item.source},
                              {"file", item.problem.file},
                              {"where", item.problem.where},
                              {"why", item.problem.why}});
  }
  for (const auto& shard : manifest.shards) {
    out["shards"].push_back({{"name", shard.name},
                             {"split", shard.split},
                             {"bytes", shard.bytes},
                             {"xxh3", shard.xxh3},
                             {"head_xxh3", shard.head},
                             {"images", shard.images},
                             {"samples", shard.samples}});
  }
  // Texts of the data sets' owners may hold anything; what is no UTF-8 is replaced.
  write_file(path, out.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

Manifest read_manifest(const std::filesystem::path& path) {
  const auto in = read_annotation_json(path);
  if (string_field(in, "format", path, "") != "tessera-prepared") {
    throw RequestError("'{}' is no manifest of a prepared folder", path.string());
  }
  const auto& version = as_array(field(in, "format_version", path, ""), path, "format_version");
  if (version.empty() || as_number(version[0], path, "format_version[0]") != 1) {
    throw RequestError("'{}': format_version is newer than this program; use a newer one, or prepare again",
                       path.string());
  }
  Manifest manifest;
  manifest.complete = as_bool(field(in, "complete", path, ""), path, "complete");
  manifest.made_by = string_field(in, "made_by", path, "");
  manifest.command_line = string_field(in, "command_line", path, "");
  manifest.tokenizer_hash = string_field(in, "tokenizer_hash", path, "");
  const auto integer = [&](const json& object, const char* name, const std::string& where) {
    return static_cast<std::int64_t>(as_number(field(object, name, path, where), path, where + "." + name));
  };
  for (const auto& [name, c] : as_object(field(in, "counts", path, ""), path, "counts").items()) {
    manifest.counts[name] = {string_field(c, "family", path, name),
                             integer(c, "items", name),
                             integer(c, "samples", name),
                             integer(c, "conversations", name),
                             integer(c, "targets", name),
                             integer(c, "tokens", name),
                             integer(c, "skipped", name)};
  }
  for (const auto& s : as_array(field(in, "skipped", path, ""), path, "skipped")) {
    manifest.skipped.push_back({{string_field(s, "file", path, "skipped"), string_field(s, "where", path, "skipped"),
                                 string_field(s, "why", path, "skipped")},
                                string_field(s, "source", path, "skipped")});
  }
  for (const auto& s : as_array(field(in, "shards", path, ""), path, "shards")) {
    manifest.shards.push_back({string_field(s, "name", path, "shards"), string_field(s, "split", path, "shards"),
                               integer(s, "bytes", "shards"), string_field(s, "xxh3", path, "shards"),
                               s.contains("head_xxh3") ? string_field(s, "head_xxh3", path, "shards") : "",
                               integer(s, "images", "shards"), integer(s, "samples", "shards")});
  }
  return manifest;
}

}  // namespace tessera::data
