#include "tessera/data/loader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <memory>

#include "data/prefetch.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"
#include "tessera/data/grouping.hpp"

namespace tessera::data {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;

struct FamilyRate {
  std::string_view family;
  double rate;
};
/// LISA's default mixture.
constexpr std::array<FamilyRate, 4> kReferenceRates = {
    {{"sem_seg", 9}, {"refer_seg", 3}, {"vqa", 3}, {"reason_seg", 1}}};

double reference_rate(std::string_view family) {
  for (const auto& entry : kReferenceRates) {
    if (entry.family == family) return entry.rate;
  }
  return 1;
}

/// Families that the shards hold: the reference's in its order, then the others in order of appearance.
std::vector<std::string> families_of(const std::vector<SourcePopulation>& sources) {
  std::vector<std::string> families;
  const auto held = [&](std::string_view name) {
    return std::any_of(sources.begin(), sources.end(),
                       [&](const auto& s) { return s.family == name && !s.items.empty(); });
  };
  for (const auto& entry : kReferenceRates) {
    if (held(entry.family)) families.emplace_back(entry.family);
  }
  for (const auto& source : sources) {
    if (held(source.family) && std::find(families.begin(), families.end(), source.family) == families.end()) {
      families.push_back(source.family);
    }
  }
  return families;
}

using Order = std::function<std::int64_t(std::int64_t)>;  ///< number in the stream -> row of the sample table

struct Stream {
  Order at;
  std::int64_t epoch_samples = 0;
};

std::vector<std::int64_t> signed_lengths(const Shards& shards) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t row = 0; row < shards.size(); ++row) {
    const auto sizes = shards.sizes_of(row);
    const auto words = std::max<std::int64_t>(1, sizes.words);
    lengths.push_back(sizes.images > 0 ? words : -words);
  }
  return lengths;
}

/// Epoch after epoch of every sample, in LLaVA's order; of samples that all count alike that is a plain shuffle.
Order epochs_order(const std::vector<SourcePopulation>& sources, const std::vector<std::string>& families,
                   std::vector<std::int64_t> lengths, const StepShape& shape, std::uint64_t seed) {
  const auto order = std::make_shared<GroupedOrder>(sources, families, std::move(lengths), shape.batch_size,
                                                    shape.micro_batches, seed);
  return [order](std::int64_t g) { return order->at(g); };
}

std::int64_t items_of(const std::vector<SourcePopulation>& sources, const std::vector<std::string>& families) {
  std::int64_t items = 0;
  for (const auto& source : sources) {
    const bool taken = std::find(families.begin(), families.end(), source.family) != families.end();
    items += taken ? static_cast<std::int64_t>(source.items.size()) : 0;
  }
  return items;
}

Order order_of(const LoaderConfig& config, const std::vector<SourcePopulation>& sources,
               const std::vector<std::string>& families, const Shards& shards, const StepShape& shape,
               std::uint64_t seed) {
  if (config.group_by_modality_length) {
    if (!config.sample_rates.empty()) {
      throw RequestError(
          "--sample_rates has no meaning with --group_by_modality_length, which takes each sample once an "
          "epoch");
    }
    return epochs_order(sources, families, signed_lengths(shards), shape, seed);
  }
  if (config.sample_rates.empty() && shards.header().recipe == "llava") {
    return epochs_order(sources, families, std::vector<std::int64_t>(static_cast<std::size_t>(shards.size()), 1), shape,
                        seed);
  }
  std::vector<double> rates;
  if (config.sample_rates.empty()) {
    for (const auto& family : families) rates.push_back(reference_rate(family));
  } else {
    rates = parse_rates(config.sample_rates);
  }
  const auto order = std::make_shared<MixtureOrder>(sources, families, rates, seed);
  return [order](std::int64_t g) { return order->at(g); };
}

Stream stream_of(const LoaderConfig& config, const Shards& shards, const StepShape& shape, std::uint64_t seed) {
  const auto sources = shards.populations();
  const auto families = config.dataset.empty() ? families_of(sources) : parse_families(config.dataset);
  return {order_of(config, sources, families, shards, shape, seed), items_of(sources, families)};
}

void bind_augmentation(Options& options, image::AugmentConfig& config) {
  const std::string group = "Augmentation";
  options.add("augment_flip", &config.flip,
              "probability of mirroring an image and its masks; never where the text speaks of left or right",
              {.group = group, .min = 0});
  options.add("augment_crop_min_area", &config.crop_min_area,
              "a random crop keeps between this share of the area and all of it; 1: no crop",
              {.group = group, .min = 0});
  options.add("augment_crop_aspect", &config.crop_aspect,
              "width over height of the crop lies between 1 / this and this", {.group = group, .min = 1});
  options.add("augment_scale_min", &config.scale_min, "smallest factor on both sides, after the crop",
              {.group = group, .min = 0});
  options.add("augment_scale_max", &config.scale_max, "largest such factor", {.group = group, .min = 0});
  options.add("augment_brightness", &config.brightness, "factors are drawn from max(0, 1 - this) to 1 + this",
              {.group = group, .min = 0});
  options.add("augment_contrast", &config.contrast, "likewise", {.group = group, .min = 0});
  options.add("augment_saturation", &config.saturation, "likewise", {.group = group, .min = 0});
}

InputSpec with_augmentation(InputSpec spec, const LoaderConfig& config) {
  image::check(config.augment);
  const bool stored = !spec.stored_clip.empty() || !spec.stored_sam.empty();
  if (stored && config.augment.any()) {
    throw RequestError(
        "--augment_…: augmentation is off for features that the shards hold, and some is asked for; leave it out, or "
        "pass --stored_features false to run the vision towers");
  }
  spec.augment = config.augment;
  return spec;
}

/// Whether the shards are LISA's, which has one image a sample; else they are LLaVA's.
bool has_masks(const Shards& shards) {
  if (shards.header().recipe != "lisa") return false;
  for (std::int64_t row = 0; row < shards.size(); ++row) {
    if (const auto images = shards.sizes_of(row).images; images != 1) {
      throw RequestError(
          "--shards: row {} of source '{}' has {} images, LISA takes one a sample; prepare it with "
          "--recipe llava",
          row, shards.source_of(row), images);
    }
  }
  return true;
}

SampleInfo info_of(const Shards& shards, std::int64_t number, std::int64_t row, const StoredSample& sample) {
  SampleInfo info{number, row, shards.source_of(row), sample.image_name, {}};
  for (const auto& conversation : sample.conversations) info.questions.push_back(conversation.question);
  return info;
}

}  // namespace

void bind(Options& options, LoaderConfig& config) {
  const std::string group = "Data";
  options.add("shards", &config.shards, "folders that `tessera prepare` wrote, separated by commas", {.group = group});
  options.add("dataset", &config.dataset,
              "families to train on, as sem_seg||refer_seg||vqa||reason_seg; empty: all that the shards hold",
              {.group = group});
  options.add(
      "sample_rates", &config.sample_rates,
      "how often each family is drawn, as 9,3,3,1 or 9||3||3||1; empty: 9, 3, 3, 1 for the reference's families, and "
      "with --recipe llava every sample once an epoch",
      {.group = group});
  options.add("batch_size", &config.batch_size, "images of one rank in one micro-step",
              {.group = group, .unit = "images", .min = 1});
  options.add("grad_accumulation_steps", &config.grad_accumulation_steps, "micro-steps of a step on each rank",
              {.group = group, .min = 1});
  options.add("global_batch_size", &config.global_batch_size,
              "images of a step over all ranks; with it a step is the same for any number of ranks, and "
              "grad_accumulation_steps follows from it",
              {.group = group, .unit = "images", .min = 1});
  options.add("model_max_length", &config.model_max_length,
              "positions of a conversation with its image spliced in; longer texts are cut",
              {.group = group, .unit = "tokens", .min = 1});
  options.add("group_by_modality_length", &config.group_by_modality_length,
              "LLaVA's order: every sample once an epoch, a step's micro-batches of one modality and of about the same "
              "weight; instead of the mixture by rates",
              {.group = group});
  options.add_alias("per_device_train_batch_size", "batch_size");
  options.add_alias("gradient_accumulation_steps", "grad_accumulation_steps");
  options.add("stored_features", &config.stored_features,
              "take the features of vision towers that the shards hold, and do not run these towers; false: run them",
              {.group = group});
  bind_augmentation(options, config.augment);
  options.add("workers", &config.workers, "threads of a rank that read and decode ahead; 0: one",
              {.group = group, .min = 0});
  options.add_alias("dataloader_num_workers", "workers");
  options.add("prefetch_mib", &config.prefetch_mib, "memory of a rank for samples read ahead, beyond the step in hand",
              {.group = group, .unit = "MiB", .min = 0});
}

StepShape step_shape(const LoaderConfig& config, int rank, int world) {
  if (config.batch_size < 1 || config.grad_accumulation_steps < 1) {
    throw RequestError("--batch_size {} and --grad_accumulation_steps {} must be positive", config.batch_size,
                       config.grad_accumulation_steps);
  }
  StepShape shape{config.batch_size, config.grad_accumulation_steps * world, rank, world};
  if (!config.global_batch_size) return shape;
  const auto total = *config.global_batch_size;
  const auto unit = config.batch_size * world;
  if (total < 1 || total % unit != 0) {
    throw RequestError(
        "--global_batch_size {} cannot be divided: {} ranks x --batch_size {} take multiples of {}, e.g. {}; change "
        "it, the "
        "batch size or the number of ranks",
        total, world, config.batch_size, unit, std::max<std::int64_t>(1, (total + unit - 1) / unit) * unit);
  }
  shape.micro_batches = total / config.batch_size;
  return shape;
}

std::int64_t StepBatches::masks() const {
  std::int64_t count = 0;
  for (const auto& one : micro) {
    for (const auto& masks : one.batch.masks) count += masks.size(0);
  }
  return count;
}

std::int64_t StepBatches::tokens() const {
  std::int64_t count = 0;
  for (const auto& one : micro) count += one.report.tokens;
  return count;
}

std::int64_t StepBatches::padding() const {
  std::int64_t count = 0;
  for (const auto& one : micro) count += one.report.padding;
  return count;
}

std::int64_t StepBatches::label_tokens() const {
  std::int64_t count = 0;
  for (const auto& one : micro) count += one.report.label_tokens;
  return count;
}

struct Loader::Impl {
  Impl(const LoaderConfig& config, const InputSpec& input, const Shards& table, std::uint64_t seed_, int rank,
       int world)
      : shape(step_shape(config, rank, world)),
        spec(with_augmentation(input, config)),
        shards(table),
        seed(seed_),
        lisa(has_masks(table)),
        order(stream_of(config, table, shape, seed_)),
        ahead(
            {.workers = static_cast<int>(std::max<std::int64_t>(1, config.workers)),
             .bytes = config.prefetch_mib * kMiB},
            [this](std::int64_t i) { return make(i); }, [this](std::int64_t i) { return cost(i); }) {}

  /// Number in the stream of image j of this rank's i-th micro-batch since step 0.
  std::int64_t number(std::int64_t i, std::int64_t j) const {
    const auto its_step = i / shape.own();
    return (its_step * shape.micro_batches + micro(i)) * shape.batch_size + j;
  }
  std::int64_t micro(std::int64_t i) const { return i % shape.own() * shape.world + shape.rank; }

  MicroBatch make(std::int64_t i) const {
    MicroBatch result;
    result.index = micro(i);
    std::vector<StoredSample> samples;
    std::vector<std::uint64_t> keys;
    for (std::int64_t j = 0; j < shape.batch_size; ++j) {
      const auto g = number(i, j);
      const auto row = order.at(g);
      samples.push_back(shards.read(row, spec.reads(lisa)));
      keys.push_back(mix_keys(seed, hash_name("sample"), g));
      result.samples.push_back(info_of(shards, g, row, samples.back()));
    }
    if (lisa) {
      result.batch = collate(samples, keys, shards.header(), spec, Purpose::training, result.report);
    } else {
      result.llava = collate_llava(samples, keys, shards.header(), spec, result.report);
    }
    return result;
  }

  std::int64_t cost(std::int64_t i) const {
    std::int64_t bytes = 0;
    for (std::int64_t j = 0; j < shape.batch_size; ++j) {
      bytes += collated_bytes(shards.sizes_of(order.at(number(i, j))), spec, lisa);
    }
    return bytes;
  }

  StepShape shape;
  InputSpec spec;
  const Shards& shards;
  std::uint64_t seed;
  bool lisa;
  Stream order;
  std::int64_t step = 0;
  Prefetch<MicroBatch> ahead;  // last: its threads use all of the above
};

Loader::Loader(const LoaderConfig& config, const InputSpec& spec, const Shards& shards, std::uint64_t seed, int rank,
               int world)
    : impl_(std::make_unique<Impl>(config, spec, shards, seed, rank, world)) {}
Loader::~Loader() = default;

const StepShape& Loader::shape() const noexcept {
  return impl_->shape;
}

std::int64_t Loader::epoch_samples() const noexcept {
  return impl_->order.epoch_samples;
}

StepBatches Loader::next() {
  StepBatches result;
  result.step = impl_->step;
  const double before = impl_->ahead.waited_s();
  result.micro = impl_->ahead.take(impl_->shape.own());
  result.data_wait_s = impl_->ahead.waited_s() - before;
  ++impl_->step;
  return result;
}

void Loader::seek(std::int64_t step) {
  impl_->ahead.seek(step * impl_->shape.own());
  impl_->step = step;
}

std::vector<std::int64_t> Loader::rows_of(std::int64_t step, std::int64_t micro) const {
  std::vector<std::int64_t> rows;
  for (std::int64_t j = 0; j < impl_->shape.batch_size; ++j) {
    rows.push_back(impl_->order.at((step * impl_->shape.micro_batches + micro) * impl_->shape.batch_size + j));
  }
  return rows;
}

double Loader::waited_s() const {
  return impl_->ahead.waited_s();
}
std::int64_t Loader::peak_bytes() const {
  return impl_->ahead.peak_bytes();
}

struct EvalLoader::Impl {
  Impl(const InputSpec& input, const Shards& table, int rank_, int world_, const Limits& limits)
      : spec(input),
        shards(table),
        rank(rank_),
        world(world_),
        lisa(table.header().recipe == "lisa"),
        count_padding(limits.count_padding),
        rows(first_rows(table, limits.max_items)),
        calls((static_cast<std::int64_t>(rows.size()) + world - 1) / world),
        ahead(
            {.workers = static_cast<int>(std::max<std::int64_t>(1, limits.workers)),
             .bytes = limits.prefetch_mib * kMiB,
             .end = calls},
            [this](std::int64_t i) { return make(i); },
            [this](std::int64_t i) { return collated_bytes(shards.sizes_of(row(i)), spec, lisa); }) {}

  static std::vector<std::int64_t> first_rows(const Shards& shards, std::int64_t most) {
    auto all = shards.evaluation_rows();
    if (most >= 0 && most < static_cast<std::int64_t>(all.size())) all.resize(static_cast<std::size_t>(most));
    return all;
  }

  bool counted(std::int64_t i) const { return i * world + rank < static_cast<std::int64_t>(rows.size()); }
  /// A rank without an item of its own in the last round takes one of the first again.
  std::int64_t row(std::int64_t i) const { return rows[static_cast<std::size_t>(i * world + rank) % rows.size()]; }

  EvalItem make(std::int64_t i) const {
    EvalItem item;
    auto reads = spec.reads(lisa);
    reads.bytes = reads.bytes || lisa;  // for overlays
    auto sample = shards.read(row(i), reads);
    item.counted = counted(i) || count_padding;
    item.is_sentence = sample.is_sentence;
    item.sample = info_of(shards, i * world + rank, row(i), sample);
    const auto number = static_cast<std::uint64_t>(row(i));
    std::vector<StoredSample> one;
    one.push_back(std::move(sample));
    CollateReport report;
    const std::vector<std::uint64_t> keys{mix_keys(number, hash_name("evaluation"))};
    if (lisa) {
      item.batch = collate(one, keys, shards.header(), spec, Purpose::evaluation, report);
    } else {
      item.llava = collate_llava(one, keys, shards.header(), spec, report);
    }
    item.image = std::move(one.front().image);
    return item;
  }

  InputSpec spec;
  const Shards& shards;
  int rank;
  int world;
  bool lisa;
  bool count_padding;
  std::vector<std::int64_t> rows;
  std::int64_t calls;
  std::int64_t taken = 0;
  Prefetch<EvalItem> ahead;
};

EvalLoader::EvalLoader(const InputSpec& spec, const Shards& shards, int rank, int world, Limits limits)
    : impl_(std::make_unique<Impl>(spec, shards, rank, world, limits)) {}
EvalLoader::~EvalLoader() = default;
std::int64_t EvalLoader::items() const noexcept {
  return static_cast<std::int64_t>(impl_->rows.size());
}
std::int64_t EvalLoader::calls() const noexcept {
  return impl_->calls;
}
EvalItem EvalLoader::next() {
  return std::move(impl_->ahead.take(1).front());
}
void EvalLoader::rewind() {
  impl_->ahead.seek(0);
}

}  // namespace tessera::data
