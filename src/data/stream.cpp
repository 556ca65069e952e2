#include "data/stream.hpp"

#include <algorithm>
#include <array>
#include <memory>

#include "tessera/core/error.hpp"
#include "tessera/data/grouping.hpp"

namespace tessera::data {
namespace {

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

/// The reference counts words alone, as all its pictures are of one length; in tiles they are not.
std::vector<std::int64_t> signed_lengths(const Shards& shards, const InputSpec& spec) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t row = 0; row < shards.size(); ++row) {
    const auto sizes = shards.sizes_of(row);
    const auto words = std::max<std::int64_t>(1, sizes.words) + (spec.tiles ? spec.positions_of(sizes) : 0);
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
               const std::vector<std::string>& families, const Shards& shards, const InputSpec& spec,
               const StepShape& shape, std::uint64_t seed) {
  if (config.group_by_modality_length) {
    if (!config.sample_rates.empty()) {
      throw RequestError(
          "--sample_rates has no meaning with --group_by_modality_length, which takes each sample once an "
          "epoch");
    }
    return epochs_order(sources, families, signed_lengths(shards, spec), shape, seed);
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

}  // namespace

Stream stream_of(const LoaderConfig& config, const Shards& shards, const InputSpec& spec, const StepShape& shape,
                 std::uint64_t seed) {
  const auto sources = shards.populations();
  const auto families = config.dataset.empty() ? families_of(sources) : parse_families(config.dataset);
  return {order_of(config, sources, families, shards, spec, shape, seed), items_of(sources, families)};
}

}  // namespace tessera::data
