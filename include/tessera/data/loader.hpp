#pragma once
/// Loader: the training stream of one rank, step by step. Micro-batch m of step k holds the same samples whatever the
/// number of ranks; rank r of N takes the micro-batches m with m % N == r. Background threads read and decode ahead.
///
/// Not collective. Source of the mixture and the collation: dvlab-research/LISA utils/dataset.py; of the grouping and
/// of LLaVA's collation: haotian-liu/LLaVA llava/train.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tessera/core/options.hpp"
#include "tessera/data/collate.hpp"
#include "tessera/data/shards.hpp"
#include "tessera/models/lisa_batch.hpp"

namespace tessera::data {

struct LoaderConfig {
  std::string shards;           ///< prepared folder(s), separated by ','
  std::string dataset;          ///< families, "sem_seg||refer_seg"; empty: all that the shards hold
  std::string sample_rates;     ///< one per family; empty: 9, 3, 3, 1 for sem_seg, refer_seg, vqa, reason_seg
  std::int64_t batch_size = 2;  ///< images of a micro-batch
  std::int64_t grad_accumulation_steps = 10;
  std::optional<std::int64_t>
      global_batch_size;  ///< images of a step over all ranks; then accumulation follows from it
  std::int64_t model_max_length = 512;
  bool group_by_modality_length = false;  ///< epochs of every sample in LLaVA's order, instead of the mixture
                                          ///< or, for shards of recipe llava, of their plain shuffle
  bool stored_features = true;            ///< take the towers' features where the shards hold them
  image::AugmentConfig augment;           ///< off by default
  std::int64_t workers = 4;               ///< threads that read and decode, per rank
  std::int64_t prefetch_mib = 1024;
};

void bind(Options& options, LoaderConfig& config);

/// How many micro-batches a step has, and which are one rank's.
struct StepShape {
  std::int64_t batch_size = 0;
  std::int64_t micro_batches = 0;  ///< of a step, over all ranks
  int rank = 0;
  int world = 1;
  std::int64_t own() const noexcept { return micro_batches / world; }
  std::int64_t images() const noexcept { return micro_batches * batch_size; }
};
/// Throws RequestError when sizes are not positive or do not divide, saying which numbers would.
StepShape step_shape(const LoaderConfig& config, int rank, int world);

/// Where a sample came from, for people.
struct SampleInfo {
  std::int64_t number = 0;  ///< in the stream
  std::int64_t row = 0;     ///< in the shards
  std::string source;
  std::string image_name;
  std::vector<std::string> questions;
};

struct MicroBatch {
  std::int64_t index = 0;           ///< m, in the step
  models::LisaBatch batch;          ///< from shards of recipe lisa
  models::LlavaBatch llava;         ///< from shards of recipe llava
  std::vector<SampleInfo> samples;  ///< one per sample
  CollateReport report;
};

struct StepBatches {
  std::int64_t step = 0;
  std::vector<MicroBatch> micro;      ///< this rank's, by index
  std::int64_t label_tokens() const;  ///< supervised next-token targets of this rank's micro-batches
  std::int64_t masks() const;
  std::int64_t tokens() const;   ///< that are no padding
  std::int64_t padding() const;  ///< tokens
  double data_wait_s = 0;        ///< that next() waited
};

class Loader {
 public:
  /// `shards` must outlive it. Throws RequestError: families that the shards do not hold, rates, shapes, samples of
  /// recipe lisa that have not one image each.
  Loader(const LoaderConfig& config, const InputSpec& spec, const Shards& shards, std::uint64_t seed, int rank,
         int world);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  const StepShape& shape() const noexcept;
  /// Items of the families that are trained on, each with one of its draws: one pass over the data.
  std::int64_t epoch_samples() const noexcept;
  /// The batches of the current step; then the next step is current. Rethrows what a background thread met.
  StepBatches next();
  /// Makes `step` current, at once.
  void seek(std::int64_t step);
  /// Row of the sample table for every image of micro-batch m of a step, on any rank.
  std::vector<std::int64_t> rows_of(std::int64_t step, std::int64_t micro) const;
  double waited_s() const;          ///< in all calls of next()
  std::int64_t peak_bytes() const;  ///< most bytes held ahead, as estimated

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct EvalItem {
  models::LisaBatch batch;   ///< one image; from shards of recipe lisa
  models::LlavaBatch llava;  ///< one row; from shards of recipe llava
  SampleInfo sample;
  std::uint8_t is_sentence = kSentenceUnknown;
  bool counted = true;              ///< false: a repetition that keeps the ranks in step
  std::vector<std::uint8_t> image;  ///< encoded, for overlays
};

/// The evaluation samples in order, each once: rank r of N takes r, r + N, …; every rank makes calls() calls.
class EvalLoader {
 public:
  struct Limits {
    std::int64_t workers = 4;
    std::int64_t prefetch_mib = 1024;
    std::int64_t max_items = -1;  ///< the first so many alone; -1: all
    bool count_padding = false;   ///< the ranks' last round is filled up with the first items, which count again, as
                                  ///< LISA's DistributedSampler has it
  };
  EvalLoader(const InputSpec& spec, const Shards& shards, int rank, int world, Limits limits);
  ~EvalLoader();
  EvalLoader(const EvalLoader&) = delete;
  EvalLoader& operator=(const EvalLoader&) = delete;

  std::int64_t items() const noexcept;  ///< over all ranks
  std::int64_t calls() const noexcept;  ///< of next(), equal on every rank
  EvalItem next();
  void rewind();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::data
