#include "tessera/data/shards.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/split.hpp"
#include "tessera/data/manifest.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

/// Shard files of a folder. With a manifest they must be those it lists, whole.
std::vector<fs::path> shards_in(const fs::path& folder) {
  if (fs::is_regular_file(folder)) return {folder};
  if (!fs::is_directory(folder)) throw RequestError("--shards: no such folder '{}'", folder.string());
  if (!fs::exists(folder / kManifestName)) {
    auto paths = list_files(folder, {".h5"});
    if (paths.empty())
      throw RequestError("--shards: '{}' holds no .h5 file; `tessera prepare` makes them", folder.string());
    return paths;
  }
  const auto manifest = read_manifest(folder / kManifestName);
  if (!manifest.complete) {
    throw RequestError(
        "--shards: '{}' is not finished: `tessera prepare` was stopped there; run the same command again",
        folder.string());
  }
  std::vector<fs::path> paths;
  for (const auto& shard : manifest.shards) {
    const auto path = folder / shard.name;
    std::error_code missing;
    const auto bytes = fs::file_size(path, missing);
    if (missing) throw RequestError("shard '{}' is missing; the manifest beside it lists it", path.string());
    if (static_cast<std::int64_t>(bytes) != shard.bytes) {
      throw RequestError("shard '{}' has {} bytes, the manifest says {}: it was cut short or changed; prepare it again",
                         path.string(), bytes, shard.bytes);
    }
    if (!shard.head.empty() && head_hash(path) != shard.head) {
      throw RequestError("shard '{}' is not what was written: its beginning has changed; prepare it again",
                         path.string());
    }
    paths.push_back(path);
  }
  return paths;
}

void check(const ShardFile& file, const ShardHeader& first, const ShardRequirements& requirements) {
  const auto& header = file.header();
  const auto path = file.path().string();
  if (!requirements.tokenizer_hash.empty() && header.tokenizer_hash != requirements.tokenizer_hash) {
    throw RequestError(
        "shard '{}' was made with another tokenizer ({}) than the model's ({}); prepare it with --version of this "
        "model",
        path, header.tokenizer_hash, requirements.tokenizer_hash);
  }
  if (!requirements.conversation_template.empty() &&
      header.conversation_template != requirements.conversation_template) {
    throw RequestError("shard '{}' was made with --conv_type {}, this run has {}", path, header.conversation_template,
                       requirements.conversation_template);
  }
  if (!requirements.recipe.empty() && header.recipe != requirements.recipe) {
    throw RequestError("shard '{}' was made with --recipe {}, this model is trained on {}", path, header.recipe,
                       requirements.recipe);
  }
  const auto ids = [](const ShardHeader& h) {
    return std::array{
        h.seg_token_id, h.im_start_id, h.im_end_id, h.pad_id, h.bos_id, h.eos_id, std::int64_t{h.use_mm_start_end}};
  };
  if (header.tokenizer_hash != first.tokenizer_hash || header.conversation_template != first.conversation_template ||
      header.recipe != first.recipe || ids(header) != ids(first)) {
    throw RequestError("shard '{}' was made with another tokenizer, template or recipe than the shards before it",
                       path);
  }
}

}  // namespace

std::vector<fs::path> shard_paths(const std::string& folders) {
  std::vector<fs::path> paths;
  for (const auto folder : split(folders, ",")) {
    if (folder.empty()) throw RequestError("--shards '{}': a folder's name is empty", folders);
    const auto found = shards_in(folder);
    paths.insert(paths.end(), found.begin(), found.end());
  }
  return paths;
}

Shards Shards::open(const std::string& folders, const std::string& split, const ShardRequirements& requirements) {
  Shards shards;
  std::set<std::string> other_splits;
  std::map<std::string, std::int32_t> source_row;
  for (const auto& path : shard_paths(folders)) {
    ShardFile file(path);
    if (file.header().split != split) {
      other_splits.insert(file.header().split);
      continue;
    }
    check(file, shards.files_.empty() ? file.header() : shards.files_.front().header(), requirements);
    std::vector<std::int32_t> sources;  // of this shard, in the set
    for (std::size_t i = 0; i < file.source_names().size(); ++i) {
      const auto [at, fresh] =
          source_row.try_emplace(file.source_names()[i], static_cast<std::int32_t>(shards.sources_.size()));
      if (fresh) shards.sources_.push_back({file.source_names()[i], file.source_families()[i], {}});
      sources.push_back(at->second);
    }
    const auto number = static_cast<std::int32_t>(shards.files_.size());
    for (std::int64_t s = 0; s < file.samples(); ++s) {
      shards.rows_.push_back({number, sources[static_cast<std::size_t>(file.source_of(s))], s});
    }
    shards.files_.push_back(std::move(file));
  }
  if (shards.rows_.empty()) {
    throw RequestError(
        "--shards '{}': no sample of split '{}'{}", folders, split,
        other_splits.empty() ? std::string() : fmt::format("; there is '{}'", fmt::join(other_splits, "', '")));
  }
  return shards;
}

StoredSample Shards::read(std::int64_t index, const ReadImages& what) const {
  const auto& at = row(index);
  return files_[static_cast<std::size_t>(at.file)].read(at.sample, what);
}

std::vector<TowerFeatures> Shards::features() const {
  auto all = files_.front().features();
  for (const auto& file : files_) {
    const auto own = file.features();
    std::erase_if(all, [&](const TowerFeatures& one) {
      const auto same = std::find_if(own.begin(), own.end(), [&](const auto& other) { return other.name == one.name; });
      if (same == own.end()) return true;
      if (*same == one) return false;
      throw RequestError("shards '{}' and '{}' have '{}' features of different towers: prepare both with one model",
                         files_.front().path().string(), file.path().string(), one.name);
    });
  }
  return all;
}

SampleSizes Shards::sizes_of(std::int64_t index) const {
  const auto& at = row(index);
  return files_[static_cast<std::size_t>(at.file)].sizes_of(at.sample);
}

const std::string& Shards::source_of(std::int64_t index) const {
  return sources_[static_cast<std::size_t>(row(index).source)].name;
}
const std::string& Shards::family_of(std::int64_t index) const {
  return sources_[static_cast<std::size_t>(row(index).source)].family;
}

std::vector<SourcePopulation> Shards::populations() const {
  auto populations = sources_;
  for (std::int64_t i = 0; i < size(); ++i) {
    const auto& at = row(i);
    const auto& file = files_[static_cast<std::size_t>(at.file)];
    // The draws of an item lie one after another.
    const bool same_item = i > 0 && row(i - 1).file == at.file && row(i - 1).source == at.source &&
                           file.item_of(row(i - 1).sample) == file.item_of(at.sample);
    auto& items = populations[static_cast<std::size_t>(at.source)].items;
    if (same_item) {
      ++items.back().draws;
    } else {
      items.push_back({i, 1});
    }
  }
  return populations;
}

std::vector<std::int64_t> Shards::evaluation_rows() const {
  std::vector<std::int64_t> rows;
  for (const auto& source : populations()) {
    for (const auto& item : source.items) rows.push_back(item.first);
  }
  std::sort(rows.begin(), rows.end());
  return rows;
}

}  // namespace tessera::data
