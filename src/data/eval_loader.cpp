#include <algorithm>

#include "data/prefetch.hpp"
#include "data/sample_info.hpp"
#include "tessera/core/random.hpp"
#include "tessera/data/loader.hpp"

namespace tessera::data {

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
             .bytes = limits.prefetch_mib << 20,
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
