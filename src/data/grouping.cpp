#include "tessera/data/grouping.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"

namespace tessera::data {
namespace {

using Indices = std::vector<std::int64_t>;

constexpr std::size_t kEpochsKept = 2;

/// One megabatch, sorted by falling length, dealt to chunks of about the same sum; then chunk after chunk.
Indices deal(const Indices& sorted, std::span<const std::int64_t> lengths, std::size_t chunks) {
  std::vector<Indices> dealt(chunks);
  if (sorted.size() % chunks != 0) {
    for (std::size_t i = 0; i < sorted.size(); ++i) dealt[i % chunks].push_back(sorted[i]);
  } else {
    constexpr auto kFull = std::numeric_limits<std::int64_t>::max();
    const auto each = sorted.size() / chunks;
    Indices sums(chunks, 0);
    for (const auto index : sorted) {
      const auto lightest = std::min_element(sums.begin(), sums.end());
      auto& chunk = dealt[static_cast<std::size_t>(lightest - sums.begin())];
      chunk.push_back(index);
      *lightest = chunk.size() == each ? kFull : *lightest + lengths[static_cast<std::size_t>(index)];
    }
  }
  Indices out;
  for (const auto& chunk : dealt) out.insert(out.end(), chunk.begin(), chunk.end());
  return out;
}

Indices length_grouped(std::span<const std::int64_t> lengths, std::int64_t batch, std::int64_t chunks,
                       std::mt19937& random) {
  const auto shuffled = torch_permutation(static_cast<std::int64_t>(lengths.size()), random);
  const auto size = static_cast<std::size_t>(batch * chunks);
  Indices out;
  for (std::size_t begin = 0; begin < shuffled.size(); begin += size) {
    const auto end = std::min(begin + size, shuffled.size());
    Indices megabatch(shuffled.begin() + static_cast<std::ptrdiff_t>(begin),
                      shuffled.begin() + static_cast<std::ptrdiff_t>(end));
    std::stable_sort(megabatch.begin(), megabatch.end(), [&](std::int64_t a, std::int64_t b) {
      return lengths[static_cast<std::size_t>(a)] > lengths[static_cast<std::size_t>(b)];
    });
    const auto dealt = deal(megabatch, lengths, static_cast<std::size_t>(chunks));
    out.insert(out.end(), dealt.begin(), dealt.end());
  }
  return out;
}

/// The samples of one modality, grouped, in megabatches.
std::vector<Indices> megabatches_of(std::span<const std::int64_t> lengths, bool text, std::int64_t batch,
                                    std::int64_t chunks, std::mt19937& random) {
  Indices samples;
  Indices own_lengths;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if ((lengths[i] < 0) != text) continue;
    samples.push_back(static_cast<std::int64_t>(i));
    own_lengths.push_back(std::abs(lengths[i]));
  }
  const auto order = length_grouped(own_lengths, batch, chunks, random);
  const auto size = static_cast<std::size_t>(batch * chunks);
  std::vector<Indices> megabatches;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i % size == 0) megabatches.emplace_back();
    megabatches.back().push_back(samples[static_cast<std::size_t>(order[i])]);
  }
  return megabatches;
}

}  // namespace

std::vector<std::int64_t> torch_permutation(std::int64_t n, std::mt19937& random) {
  Indices order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t i = 0; i + 1 < n; ++i) {
    const auto other = i + static_cast<std::int64_t>(random()) % (n - i);
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(other)]);
  }
  return order;
}

std::vector<std::int64_t> modality_grouped(std::span<const std::int64_t> lengths, std::int64_t batch,
                                           std::int64_t chunks, std::mt19937& within, std::mt19937& random) {
  const auto is_text = [](std::int64_t length) { return length < 0; };
  const auto texts = std::count_if(lengths.begin(), lengths.end(), is_text);
  if (texts == 0 || texts == static_cast<std::ptrdiff_t>(lengths.size())) {
    return length_grouped(lengths, batch, chunks, random);
  }
  auto all = megabatches_of(lengths, false, batch, chunks, within);
  auto text = megabatches_of(lengths, true, batch, chunks, within);
  // The last ones, which may not be full, make one more in the end, of both modalities.
  Indices rest = std::move(all.back());
  all.pop_back();
  rest.insert(rest.end(), text.back().begin(), text.back().end());
  text.pop_back();
  std::move(text.begin(), text.end(), std::back_inserter(all));
  Indices out;
  for (const auto m : torch_permutation(static_cast<std::int64_t>(all.size()), random)) {
    const auto& megabatch = all[static_cast<std::size_t>(m)];
    out.insert(out.end(), megabatch.begin(), megabatch.end());
  }
  std::sort(rest.begin(), rest.end());
  out.insert(out.end(), rest.begin(), rest.end());
  return out;
}

GroupedOrder::GroupedOrder(const std::vector<SourcePopulation>& sources, const std::vector<std::string>& families,
                           std::vector<std::int64_t> lengths, std::int64_t batch, std::int64_t chunks,
                           std::uint64_t seed)
    : lengths_(std::move(lengths)), batch_(batch), chunks_(chunks), key_(mix_keys(seed, hash_name("grouped order"))) {
  for (const auto& family : families) {
    const auto before = items_.size();
    for (const auto& source : sources) {
      if (source.family == family) items_.insert(items_.end(), source.items.begin(), source.items.end());
    }
    if (items_.size() == before) {
      throw RequestError("the shards hold no sample of family '{}'; prepare it, or leave it out of --dataset", family);
    }
  }
  const auto step = batch * chunks;
  epoch_samples_ = (static_cast<std::int64_t>(items_.size()) + step - 1) / step * step;
}

GroupedOrder::Rows GroupedOrder::make(std::int64_t epoch) const {
  RandomSequence draws(mix_keys(key_, epoch));
  std::mt19937 within(static_cast<std::uint32_t>(draws.next()));
  std::mt19937 random(static_cast<std::uint32_t>(draws.next()));
  std::vector<std::int64_t> rows;
  std::vector<std::int64_t> lengths;
  for (const auto& item : items_) {
    rows.push_back(item.first + static_cast<std::int64_t>(draws.below(static_cast<std::uint64_t>(item.draws))));
    lengths.push_back(lengths_.at(static_cast<std::size_t>(rows.back())));
  }
  auto order = std::make_shared<std::vector<std::int64_t>>();
  for (const auto i : modality_grouped(lengths, batch_, chunks_, within, random)) {
    order->push_back(rows[static_cast<std::size_t>(i)]);
  }
  const auto samples = order->size();
  for (std::size_t i = 0; static_cast<std::int64_t>(order->size()) < epoch_samples_; ++i) {
    order->push_back((*order)[i % samples]);
  }
  return order;
}

GroupedOrder::Rows GroupedOrder::rows_of(std::int64_t epoch) const {
  const std::lock_guard lock(mutex_);
  if (const auto found = made_.find(epoch); found != made_.end()) return found->second;
  auto rows = make(epoch);
  if (made_.size() >= kEpochsKept) made_.erase(epoch < made_.begin()->first ? std::prev(made_.end()) : made_.begin());
  made_.emplace(epoch, rows);
  return rows;
}

std::int64_t GroupedOrder::at(std::int64_t g) const {
  return (*rows_of(g / epoch_samples_))[static_cast<std::size_t>(g % epoch_samples_)];
}

}  // namespace tessera::data
