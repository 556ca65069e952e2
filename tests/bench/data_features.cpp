#include "bench/data_features.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/hash.hpp"
#include "tessera/core/random.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/image/rle.hpp"

namespace tessera::bench {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kImagesOfAShard = 48;
constexpr int kWorkers = 4;
constexpr double kMiB = 1 << 20;
const std::vector<std::int64_t> kClip{256, 1024}, kSam{256, 64, 64};

std::int64_t numel(const std::vector<std::int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.at(values.size() / 2);
}

data::FeatureTable features(const std::string& name, const std::vector<std::int64_t>& shape, std::int64_t images,
                            std::uint64_t seed) {
  data::FeatureTable table{{name, shape, "bench", 1}, {}, {}};
  const auto row = static_cast<std::size_t>(table.what.numel());
  table.values.resize(static_cast<std::size_t>(images) * row);
  RandomSequence random(seed);
  for (auto& value : table.values) value = static_cast<std::uint16_t>(random.next());
  for (std::size_t i = 0; i < static_cast<std::size_t>(images); ++i)
    table.digest.push_back(static_cast<std::int64_t>(xxh3_64(table.values.data() + i * row, 2 * row)));
  return table;
}

/// One conversation with one mask for each image, 640 x 480; no picture, which nobody reads.
void write_one(const fs::path& path, std::int64_t images, std::uint64_t seed) {
  data::ShardHeader header;
  header.seg_token_id = 500;
  data::ShardData shard;
  shard.sources.name.add("bench");
  shard.sources.family.add("reason_seg");
  const std::string counts = image::rle_to_string(image::rle_encode(image::Mask(480, 640)));
  for (std::int64_t i = 0; i < images; ++i) {
    shard.images.bytes.add({});
    shard.images.height.push_back(480);
    shard.images.width.push_back(640);
    shard.images.name.add("image");
    shard.masks.counts.add(std::span(reinterpret_cast<const std::uint8_t*>(counts.data()), counts.size()));
    shard.masks.height.push_back(480);
    shard.masks.width.push_back(640);
    const std::vector<std::int32_t> ids{1, -200, 10, 11, 500, 2}, labels{-100, -100, -100, -100, 500, 2};
    shard.conversations.ids.add(ids);
    shard.conversations.labels.add(labels);
    shard.conversations.text.add("");
    shard.conversations.question.add("");
    shard.target_mask.push_back(i);
    auto& samples = shard.samples;
    samples.image.push_back(static_cast<std::int32_t>(i));
    samples.images.add(std::vector<std::int32_t>{static_cast<std::int32_t>(i)});
    samples.source.push_back(0);
    samples.item.push_back(i);
    samples.draw.push_back(0);
    samples.is_sentence.push_back(0);
    samples.ignore_mask.push_back(-1);
    samples.choices.add({});
    samples.conversation_offsets.push_back(i + 1);
    samples.target_offsets.push_back(i + 1);
  }
  // No digest of bytes that are not there.
  for (std::int64_t i = 0; i < images; ++i)
    shard.images.digest.push_back(static_cast<std::int64_t>(xxh3_64(nullptr, 0)));
  shard.features.push_back(features("clip", kClip, images, seed));
  shard.features.push_back(features("sam", kSam, images, seed + 1));
  data::write_shard(path, header, shard);
}

/// Out of the page cache: what is read next comes from the disk.
void forget(const fs::path& path) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED) != 0) throw RunError("cannot drop '{}'", path.string());
}

double time_disk(const std::vector<fs::path>& files) {
  constexpr std::int64_t kBlock = std::int64_t{8} << 20;
  for (const auto& path : files) forget(path);
  std::vector<char> block(static_cast<std::size_t>(kBlock));
  std::int64_t total = 0;
  const auto start = Clock::now();
  for (const auto& path : files) {
    const InputFile file(path);
    for (std::int64_t at = 0; at < file.size(); at += kBlock) {
      const auto bytes = std::min(kBlock, file.size() - at);
      file.read(at, block.data(), static_cast<std::size_t>(bytes));
      total += bytes;
    }
  }
  return static_cast<double>(total) / kMiB / seconds_since(start);
}

/// What the disk gives for pieces of the features' sizes in a random order, as an epoch asks for them.
double time_pieces(const std::vector<fs::path>& files, std::int64_t images) {
  for (const auto& path : files) forget(path);
  std::vector<std::int64_t> order(static_cast<std::size_t>(images));
  std::iota(order.begin(), order.end(), 0);
  RandomSequence random(3);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.next() % i]);
  std::vector<InputFile> open;
  for (const auto& path : files) open.emplace_back(path);
  const std::int64_t clip = 2 * numel(kClip), sam = 2 * numel(kSam);
  std::atomic<std::size_t> next = 0;
  const auto start = Clock::now();
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kWorkers; ++i) {
      threads.emplace_back([&] {
        std::vector<char> block(static_cast<std::size_t>(sam));
        for (std::size_t at = next++; at < order.size(); at = next++) {
          const auto& file = open[static_cast<std::size_t>(order[at] / kImagesOfAShard)];
          const auto row = order[at] % kImagesOfAShard;
          file.read(row * clip, block.data(), static_cast<std::size_t>(clip));
          file.read(kImagesOfAShard * clip + row * sam, block.data(), static_cast<std::size_t>(sam));
        }
      });
    }
  }
  return static_cast<double>(images * (clip + sam)) / kMiB / seconds_since(start);
}

double time_loader(const fs::path& folder, const std::vector<fs::path>& files) {
  const auto shards = data::Shards::open(folder.string(), "train", {});
  data::LoaderConfig config;
  config.batch_size = 2;
  config.global_batch_size = 8;
  config.group_by_modality_length = true;  // each sample once
  config.workers = kWorkers;
  config.prefetch_mib = 256;
  data::InputSpec spec;
  spec.stored_clip = kClip;
  spec.stored_sam = kSam;
  for (const auto& path : files) forget(path);
  const auto start = Clock::now();
  data::Loader loader(config, spec, shards, 1, 0, 1);
  const auto steps = shards.size() / *config.global_batch_size;
  for (std::int64_t step = 0; step < steps; ++step) loader.next();
  const double seconds = seconds_since(start);
  const auto bytes = 2 * (numel(kClip) + numel(kSam));
  return static_cast<double>(steps * *config.global_batch_size * bytes) / kMiB / seconds;
}

}  // namespace

FeatureRates measure_features(const fs::path& folder, std::int64_t images, int rounds) {
  fs::create_directories(folder);
  images = std::max(kImagesOfAShard, images - images % kImagesOfAShard);
  std::vector<fs::path> files;
  for (std::int64_t first = 0; first < images; first += kImagesOfAShard) {
    files.push_back(folder / fmt::format("train-{:05}.h5", files.size()));
    write_one(files.back(), kImagesOfAShard, static_cast<std::uint64_t>(first));
  }
  std::vector<double> disk, pieces, loader;
  for (int i = 0; i < rounds; ++i) {
    disk.push_back(time_disk(files));
    pieces.push_back(time_pieces(files, images));
    loader.push_back(time_loader(folder, files));
  }
  return {median(disk), median(pieces), median(loader)};
}

}  // namespace tessera::bench
