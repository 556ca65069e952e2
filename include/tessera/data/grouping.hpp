#pragma once
/// LLaVA's --group_by_modality_length: an order in which every sample comes once an epoch, and a step's micro-batches
/// are of one modality and weigh about the same.
///
/// Source: haotian-liu/LLaVA llava/train/llava_trainer.py (LengthGroupedSampler); torch.randperm on the CPU.
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "tessera/data/order.hpp"

namespace tessera::data {

/// torch.randperm(n, generator) for a CPU generator of that state.
std::vector<std::int64_t> torch_permutation(std::int64_t n, std::mt19937& random);

/// The reference's order of the samples 0 … lengths.size() - 1 for batches of `batch` samples, `chunks` of them a step.
/// A length is a number of words, negative for text alone, never 0. Data of one modality is shuffled by `random`; mixed
/// data by `within`, and then its megabatches by `random`.
std::vector<std::int64_t> modality_grouped(std::span<const std::int64_t> lengths, std::int64_t batch,
                                           std::int64_t chunks, std::mt19937& within, std::mt19937& random);

/// The endless stream in that order, epoch after epoch; an epoch is filled up to whole steps with its own first
/// samples. A pure function of (seed, number): the same for any number of ranks, and known at any number at once.
class GroupedOrder {
 public:
  /// `lengths[row]` is that of a row of the sample table, signed as above. Samples of other families are left out; each
  /// item comes once an epoch, in one of its draws. Throws RequestError for a family without samples.
  GroupedOrder(const std::vector<SourcePopulation>& sources, const std::vector<std::string>& families,
               std::vector<std::int64_t> lengths, std::int64_t batch, std::int64_t chunks, std::uint64_t seed);

  /// Row of the sample table for number g of the stream, g >= 0. Safe from several threads.
  std::int64_t at(std::int64_t g) const;
  std::int64_t epoch_samples() const noexcept { return epoch_samples_; }  ///< with what fills up the last step

 private:
  using Rows = std::shared_ptr<const std::vector<std::int64_t>>;
  Rows rows_of(std::int64_t epoch) const;
  Rows make(std::int64_t epoch) const;

  std::vector<ItemRows> items_;
  std::vector<std::int64_t> lengths_;
  std::int64_t batch_;
  std::int64_t chunks_;
  std::uint64_t key_;
  std::int64_t epoch_samples_;
  mutable std::mutex mutex_;
  mutable std::map<std::int64_t, Rows> made_;  ///< the newest epochs
};

}  // namespace tessera::data
