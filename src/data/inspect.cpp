#include "tessera/data/inspect.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/hash.hpp"
#include "tessera/core/random.hpp"
#include "tessera/data/manifest.hpp"
#include "tessera/data/shards.hpp"
#include "tessera/image/write.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kBarWidth = 40;  // characters
constexpr std::uint8_t kIgnored = 255;

struct Totals {
  std::map<std::string, SourceCounts> sources;  ///< by "<split>: <source>"
  std::vector<std::int64_t> tokens;             ///< of every conversation
  std::vector<std::int64_t> heights, widths;
  std::int64_t image_bytes = 0;
  std::int64_t file_bytes = 0;
  std::int64_t masks = 0;
  std::map<std::string, std::int64_t> features;  ///< what they are -> images that have them
};

Totals count(const std::vector<ShardFile>& files) {
  Totals totals;
  for (const auto& file : files) {
    totals.file_bytes += static_cast<std::int64_t>(fs::file_size(file.path()));
    totals.masks += file.masks();
    for (const auto& one : file.features()) {
      const auto what =
          fmt::format("{} [{}] of weights {:016x}, {}", one.name, fmt::join(one.shape, ","), one.tower, one.input);
      totals.features[what] += file.images();
    }
    for (std::int64_t i = 0; i < file.images(); ++i) {
      const auto size = file.image_size(i);
      totals.heights.push_back(size.height);
      totals.widths.push_back(size.width);
      totals.image_bytes += file.image_bytes(i);
    }
    const auto lengths = file.token_lengths();
    totals.tokens.insert(totals.tokens.end(), lengths.begin(), lengths.end());
    for (std::int64_t i = 0; i < file.samples(); ++i) {
      const auto source = static_cast<std::size_t>(file.source_of(i));
      const auto sizes = file.sizes_of(i);
      auto& counts = totals.sources[file.header().split + ": " + file.source_names()[source]];
      counts.family = file.source_families()[source];
      const bool same_item =
          i > 0 && file.item_of(i - 1) == file.item_of(i) && file.source_of(i - 1) == file.source_of(i);
      counts.items += same_item ? 0 : 1;
      counts += {"", 0, 1, sizes.conversations, sizes.targets, sizes.tokens, 0};
    }
  }
  return totals;
}

/// Smallest, middle, largest.
std::string spread(std::vector<std::int64_t> values) {
  if (values.empty()) return "none";
  std::sort(values.begin(), values.end());
  return fmt::format("{} … {} … {}", values.front(), values[values.size() / 2], values.back());
}

/// Bars over ranges that double: 0-15, 16-31, 32-63, …
std::string histogram(const std::vector<std::int64_t>& values) {
  std::map<std::int64_t, std::int64_t> bars;  // lower bound -> count
  for (const auto value : values) {
    std::int64_t low = 0;
    for (std::int64_t next = 16; next <= value; next *= 2) low = next;
    ++bars[low];
  }
  std::int64_t most = 1;
  for (const auto& [low, n] : bars) most = std::max(most, n);
  std::string text;
  for (const auto& [low, n] : bars) {
    const auto high = low == 0 ? 15 : 2 * low - 1;
    text += fmt::format("  {:>6}-{:<6} {:>9} {}\n", low, high, n,
                        std::string(static_cast<std::size_t>((n * kBarWidth + most - 1) / most), '#'));
  }
  return text;
}

std::string describe(const std::vector<ShardFile>& files, const Totals& totals) {
  const auto& header = files.front().header();
  std::string text = fmt::format("{} shards, {:.1f} MiB; images {:.1f} MiB\n", files.size(),
                                 static_cast<double>(totals.file_bytes) / (1 << 20),
                                 static_cast<double>(totals.image_bytes) / (1 << 20));
  text += fmt::format("tokenizer {}, template {}, recipe {}, [SEG] {}\n", header.tokenizer_hash,
                      header.conversation_template, header.recipe, header.seg_token_id);
  if (!header.made_by.empty()) text += fmt::format("made by {}\n", header.made_by);
  text += fmt::format("\n{:<48} {:<11} {:>8} {:>8} {:>13} {:>8} {:>10}\n", "source", "family", "items", "samples",
                      "conversations", "targets", "tokens");
  for (const auto& [name, c] : totals.sources) {
    text += fmt::format("{:<48} {:<11} {:>8} {:>8} {:>13} {:>8} {:>10}\n", name, c.family, c.items, c.samples,
                        c.conversations, c.targets, c.tokens);
  }
  text += fmt::format("\nimages {}: height {}, width {}; masks {}\n", totals.heights.size(), spread(totals.heights),
                      spread(totals.widths), totals.masks);
  for (const auto& [what, images] : totals.features)
    text += fmt::format("stored features of {} images: {}\n", images, what);
  text += fmt::format("tokens of a conversation: {}\n{}", spread(totals.tokens), histogram(totals.tokens));
  return text;
}

/// The targets of a sample in one map: 1 in any of them, 255 where no score may count.
image::Mask label_of(const StoredSample& sample) {
  image::Mask label(sample.size.height, sample.size.width);
  const auto draw = [&label](const image::Rle& rle, std::uint8_t value) {
    const auto mask = image::rle_decode(rle);
    for (std::size_t p = 0; p < mask.data.size(); ++p) {
      if (mask.data[p] != 0) label.data[p] = value;
    }
  };
  for (const auto& target : sample.targets) draw(target, 1);
  if (sample.ignore) draw(*sample.ignore, kIgnored);
  return label;
}

image::Image picture_of(const StoredSample& sample, bool oriented) {
  constexpr std::int64_t kBlank = 64;
  if (!sample.has_image()) return {kBlank, kBlank};  // text alone
  const auto image = image::decode(sample.image, sample.where, {.exif_orientation = oriented});
  return image::label_view(image, label_of(sample));
}

/// LISA reads images as OpenCV does, which turns them as EXIF says; LLaVA as Pillow does.
bool are_oriented(const std::vector<ShardFile>& files) {
  return files.front().header().recipe == "lisa";
}

/// Sample `row` over all files.
StoredSample read_row(const std::vector<ShardFile>& files, std::int64_t row) {
  for (const auto& file : files) {
    if (row < file.samples()) return file.read(row);
    row -= file.samples();
  }
  throw RequestError("--sample: there are not so many samples");
}

std::string describe(const StoredSample& sample, std::int64_t row) {
  std::string text = fmt::format("\nsample {} ({}): ", row, sample.where);
  text += sample.has_image()
              ? fmt::format("image '{}' {} x {}", sample.image_name, sample.size.width, sample.size.height)
              : "text alone";
  for (const auto& image : sample.more_images) {
    text += fmt::format(", '{}' {} x {}", image.name, image.size.width, image.size.height);
  }
  text += fmt::format(", {} targets\n", sample.targets.size());
  for (const auto& conversation : sample.conversations) {
    const auto supervised =
        std::count_if(conversation.labels.begin(), conversation.labels.end(), [](auto label) { return label >= 0; });
    text += fmt::format("  [{} tokens, {} supervised] {}\n", conversation.ids.size(), supervised, conversation.text);
  }
  return text;
}

/// The file's own checksum, where a manifest beside it tells.
void compare_with_manifests(const std::vector<ShardFile>& files, std::vector<std::string>& faults) {
  std::map<fs::path, Manifest> manifests;
  for (const auto& file : files) {
    const auto path = file.path().parent_path() / kManifestName;
    if (!fs::exists(path)) continue;
    const auto [at, fresh] = manifests.try_emplace(path);
    if (fresh) at->second = read_manifest(path);
    for (const auto& entry : at->second.shards) {
      if (entry.name != file.path().filename() || entry.xxh3 == hash_file_hex128(file.path())) continue;
      faults.push_back(fmt::format("{}: the file is not the one that the manifest lists", file.path().string()));
    }
  }
}

void write_sheet(const InspectConfig& config, const std::vector<ShardFile>& files, std::int64_t samples,
                 InspectReport& report) {
  RandomSequence random(mix_keys(static_cast<std::uint64_t>(config.seed), hash_name("sheet")));
  std::vector<image::SheetItem> tiles;
  for (std::int64_t i = 0; i < std::min(config.sheet_samples, samples); ++i) {
    const auto sample = read_row(files, static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(samples))));
    tiles.push_back({picture_of(sample, are_oriented(files)), sample.conversations.front().question});
  }
  constexpr std::int64_t kColumns = 6;
  write_file(config.sheet, image::encode_png(image::contact_sheet(tiles, kColumns)));
  report.pictures.push_back(config.sheet);
}

}  // namespace

void bind(Options& options, InspectConfig& config) {
  options.add("shards", &config.shards, "prepared folders or single shards, separated by commas",
              {.required = true, .positional = true});
  options.add("verify", &config.verify, "compare every checksum and read every sample; faults end with status 2");
  options.add("show", &config.show, "print a sample and write it as a picture, target green, ignored red");
  options.add("sample", &config.sample, "the sample to show; -1: a random one");
  options.add("output_dir", &config.output_dir, "where the picture goes");
  options.add("sheet", &config.sheet, "write a contact sheet of random samples to this PNG file");
  options.add("sheet_samples", &config.sheet_samples, "samples on the sheet", {.min = 1});
  options.add("seed", &config.seed, "of the random picks");
}

InspectReport run_inspect(const InspectConfig& config) {
  std::vector<ShardFile> files;
  for (const auto& path : shard_paths(config.shards)) files.emplace_back(path);
  InspectReport report;
  report.text = describe(files, count(files));
  std::int64_t samples = 0;
  for (const auto& file : files) samples += file.samples();
  if (config.show || config.sample >= 0) {
    RandomSequence random(mix_keys(static_cast<std::uint64_t>(config.seed), hash_name("sample")));
    if (samples == 0) throw RequestError("'{}': no sample to show", config.shards);
    const auto row = config.sample >= 0 ? config.sample
                                        : static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(samples)));
    const auto sample = read_row(files, row);
    report.text += describe(sample, row);
    const auto path = fs::path(config.output_dir) / fmt::format("sample_{}.png", row);
    make_directories(config.output_dir);
    write_file(path, image::encode_png(picture_of(sample, are_oriented(files))));
    report.pictures.push_back(path.string());
  }
  if (!config.sheet.empty()) write_sheet(config, files, samples, report);
  for (const auto& picture : report.pictures) report.text += fmt::format("wrote {}\n", picture);
  if (config.verify) {
    compare_with_manifests(files, report.faults);
    for (const auto& file : files) {
      for (const auto& fault : file.verify())
        report.faults.push_back(fmt::format("{}: {}", file.path().string(), fault));
    }
    report.text += report.faults.empty() ? "\nverified: every checksum and every sample is sound\n" : "\nfaults:\n";
    for (const auto& fault : report.faults) report.text += "  " + fault + "\n";
  }
  return report;
}

}  // namespace tessera::data
