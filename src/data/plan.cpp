#include "tessera/data/plan.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>

#include "tessera/core/hash.hpp"

namespace tessera::data {
namespace {

constexpr std::int64_t kSharesOfSmallSets = 8;
constexpr std::int64_t kImagesOfSmallShare = 8;
/// What an image costs beside its bytes: texts, ids, masks of a few draws. Only the balance depends on it.
constexpr std::int64_t kBytesBesideImage = 4096;

std::int64_t cost_of(const WorkUnit& unit, const ShardSize& size) {
  return unit.bytes + kBytesBesideImage + static_cast<std::int64_t>(unit.images.size()) * size.features_an_image;
}

/// What tells an edited file from what it was. Pictures by their size, since reading all of them would take long.
class Stamps {
 public:
  const std::string& of(const std::filesystem::path& path) {
    const auto [at, fresh] = known_.try_emplace(path.string());
    if (fresh) at->second = make(path);
    return at->second;
  }

 private:
  static std::string make(const std::filesystem::path& path) {
    std::error_code missing;
    const auto bytes = std::filesystem::file_size(path, missing);
    if (missing) return "missing";
    return path.extension() == ".png" ? fmt::format("{}", bytes) : hash_file_hex128(path);
  }
  std::unordered_map<std::string, std::string> known_;
};

std::string describe(const WorkUnit& unit, const std::vector<std::unique_ptr<Reader>>& readers, Stamps& stamps) {
  std::string text = fmt::format("{}\t{}", fmt::join(unit.images, "\t"), unit.bytes);
  for (const auto& item : unit.items) {
    const auto& reader = *readers[static_cast<std::size_t>(item.reader)];
    text += fmt::format("\t{}:{}", reader.source(), reader.items()[static_cast<std::size_t>(item.item)].name);
    for (const auto& file : reader.decided_by(item.item)) text += "\t" + stamps.of(file);
  }
  return text + "\n";
}

WorkUnit unit_of(const Item& item, const std::filesystem::path& folder) {
  WorkUnit unit;
  unit.folder = folder;
  if (!item.image.empty()) unit.images.push_back(item.image);
  unit.images.insert(unit.images.end(), item.more_images.begin(), item.more_images.end());
  for (const auto& image : unit.images) {
    std::error_code missing;
    const auto bytes = std::filesystem::file_size(folder / image, missing);
    if (!missing) unit.bytes += static_cast<std::int64_t>(bytes);
  }
  return unit;
}

/// Equal for items of the same images, by whatever folder they are named.
std::string group_key(const Item& item, const std::filesystem::path& folder) {
  auto key = (folder / item.image).lexically_normal().string();
  for (const auto& image : item.more_images) key += "\n" + (folder / image).lexically_normal().string();
  return key;
}

}  // namespace

std::vector<WorkUnit> group_by_image(const std::filesystem::path& dataset_dir,
                                     const std::vector<std::unique_ptr<Reader>>& readers) {
  std::vector<WorkUnit> units;
  std::unordered_map<std::string, std::size_t> row_of;
  for (std::size_t r = 0; r < readers.size(); ++r) {
    const auto& items = readers[r]->items();
    const auto own = readers[r]->image_folder();
    const auto folder = own.empty() ? dataset_dir : own;
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto next = units.size();
      auto row = next;
      if (!items[i].image.empty()) row = row_of.try_emplace(group_key(items[i], folder), next).first->second;
      if (row == next) units.push_back(unit_of(items[i], folder));
      units[row].items.push_back({static_cast<std::int32_t>(r), static_cast<std::int64_t>(i)});
    }
  }
  return units;
}

std::vector<PlannedShard> plan_shards(const std::string& split, std::vector<WorkUnit> units, const ShardSize& size,
                                      const std::string& settings,
                                      const std::vector<std::unique_ptr<Reader>>& readers) {
  std::vector<PlannedShard> shards;
  if (units.empty()) return shards;
  const auto cost = [&](const WorkUnit& unit) { return cost_of(unit, size); };
  std::int64_t total = 0;
  for (const auto& unit : units) total += cost(unit);
  const auto images = static_cast<std::int64_t>(units.size());
  const std::int64_t by_size = (total + size.bytes - 1) / size.bytes;
  const std::int64_t to_share = std::clamp<std::int64_t>(images / kImagesOfSmallShare, 1, kSharesOfSmallSets);
  const std::int64_t count = std::clamp<std::int64_t>(std::max(by_size, to_share), 1, images);

  Stamps stamps;
  std::int64_t done = 0;
  std::size_t next = 0;
  for (std::int64_t k = 0; k < count; ++k) {
    PlannedShard shard;
    shard.name = fmt::format("{}-{:05}-of-{:05}.h5", split, k, count);
    // Up to the k-th share of the bytes, at least one image, and leaving one for each shard to come.
    const auto keep = static_cast<std::size_t>(count - k - 1);
    std::string listing = settings + "\n";
    while (next + keep < units.size() &&
           (shard.units.empty() || keep == 0 || (done + cost(units[next]) / 2) * count < total * (k + 1))) {
      done += cost(units[next]);
      listing += describe(units[next], readers, stamps);
      shard.units.push_back(std::move(units[next++]));
    }
    shard.fingerprint = hash_hex128(listing);
    shards.push_back(std::move(shard));
  }
  return shards;
}

}  // namespace tessera::data
