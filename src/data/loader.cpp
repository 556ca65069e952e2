#include "tessera/data/loader.hpp"

#include <algorithm>

#include "data/prefetch.hpp"
#include "data/sample_info.hpp"
#include "data/stream.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"

namespace tessera::data {
namespace {

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

}  // namespace

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
        order(stream_of(config, table, input, shape, seed_)),
        ahead(
            {.workers = static_cast<int>(std::max<std::int64_t>(1, config.workers)),
             .bytes = config.prefetch_mib << 20},
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

}  // namespace tessera::data
