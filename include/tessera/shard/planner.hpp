#pragma once
/// Planner: from a model's shapes, the work of a micro-batch and a memory budget to an EngineConfig, with the reasons
/// in words and a prediction of memory and time. Not collective: ranks that ask the same get the same.
///
/// What it prefers: least time among what fits. That is, frozen weights resident where they fit (no gather at all),
/// else whole per node, else cut over the world; activations kept where they fit, recomputed where they do not;
/// gathered weights kept from one use to the next in what is left; nothing gathered ahead, and then host memory, only
/// when nothing else fits.
///
/// Units: bytes of one rank, seconds of one optimiser step, 1 GB/s = 1e9 B/s, 1 TFLOP/s = 1e12 operations a second.
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tessera/nn/param.hpp"
#include "tessera/shard/config.hpp"
#include "tessera/shard/plan.hpp"

namespace tessera::shard {

/// What a unit does for one micro-batch on one rank.
struct UnitWork {
  std::int64_t inputs = 0;          ///< that stay until its backward even when it is recomputed
  std::int64_t graph = 0;           ///< that stay when it is not: its inputs and all that its operations save
  std::int64_t forward_extra = 0;   ///< most at once while it runs without keeping a graph
  std::int64_t backward_extra = 0;  ///< most at once beyond its graph while its backward runs
  double forward_flop = 0;          ///< of its matrix products
  double backward_flop = 0;
  double forward_touched = 0;  ///< bytes that its other operations read and write; backward counts twice as much
};

/// A micro-batch, by unit of the layout.
struct Workload {
  std::vector<UnitWork> units;
  std::int64_t batch = 0;    ///< bytes of a micro-batch's input data where it is computed
  std::int64_t batches = 0;  ///< of those of a step and of those read ahead, in host memory
};

/// How fast one rank is. What is 0 is left out of the time.
struct MachineRates {
  double tflops = 0;         ///< matrix products
  double memory_gbs = 0;     ///< reading and writing memory
  double link_gbs = 0;       ///< to ranks of other nodes
  double node_link_gbs = 0;  ///< to ranks of the same node
  double host_link_gbs = 0;  ///< between device and host
  bool overlap = false;      ///< collectives run beside the arithmetic instead of on the same cores
};

/// Settled by whoever asks; what is absent is the planner's to choose.
struct PlanChoices {
  std::optional<Placement> frozen;
  std::optional<std::int64_t> keep_bytes;
  std::optional<int> prefetch;
  std::optional<std::vector<bool>> recompute;  ///< by unit
  std::optional<double> recompute_fraction;    ///< of the units that are worth it
  std::optional<bool> offload_optimizer;
  std::optional<bool> offload_frozen;
};

struct PlannerRequest {
  int world = 1;
  int nodes = 1;
  EngineConfig
      engine;  ///< compute type, device, layer_major and reproducible are taken as they are; prefetch, if it fits
  PlanChoices choices;
  std::int64_t micro_batches = 1;  ///< per rank and step
  std::function<bool(const nn::Unit&)> has_backward;
  Workload work;
  MachineRates rates;
  bool snapshot = false;      ///< checkpoints are written from a copy of masters, moments and averages in host memory
  std::int64_t baseline = 0;  ///< what the process holds without the model
  std::optional<std::int64_t> budget{};  ///< for all of it, baseline included; absent: no limit
};

struct MemoryEstimate {
  std::int64_t baseline = 0;
  std::int64_t frozen = 0, master = 0, gradients = 0, optimizer = 0, average = 0;
  std::int64_t gathered = 0;     ///< pooled full weights and gradients, at most
  std::int64_t activations = 0;  ///< at most
  std::int64_t batches = 0;      ///< on a GPU of those that it is given together
  std::int64_t snapshot = 0;     ///< what a checkpoint is written from
  std::int64_t read_ahead = 0;   ///< batches in host memory, which on a CPU are `batches`
  std::int64_t host = 0;         ///< held in host memory beside a GPU, batches too; not in the sum
  std::int64_t total() const noexcept {
    return baseline + frozen + master + gradients + optimizer + average + gathered + activations + batches + snapshot;
  }
};

struct TimeEstimate {
  double products = 0;   ///< matrix products of forward and backward
  double recompute = 0;  ///< of forward again
  double other = 0;      ///< operations bound by memory
  double optimizer = 0;
  double gather = 0;  ///< over all ranks
  double node_gather = 0;
  double reduce = 0;
  double offload = 0;  ///< copies between device and host
  double step = 0;     ///< of all, overlapped where it does
};

struct RunPlan {
  EngineConfig engine;
  Plan plan;
  MemoryEstimate memory;
  TimeEstimate time;
  std::vector<std::string> why;  ///< one line a decision
};

class Planner {
 public:
  /// `layout`, its trainable marks settled, outlives the planner. Throws RunError when the workload is of another one.
  Planner(const nn::ModelLayout& layout, PlannerRequest request);

  /// Throws RequestError naming the budget and the smallest one that can hold the run.
  RunPlan choose() const;
  /// Memory and time of a given configuration.
  RunPlan assess(const EngineConfig& config) const;
  /// Units whose graph is worth recomputing, in layout order: gradients flow through them, and they keep much more than
  /// their inputs.
  std::vector<std::size_t> heavy_units() const;

 private:
  struct Candidate;
  EngineConfig config_of(const Candidate& candidate) const;
  std::vector<Candidate> offload_levels() const;
  std::optional<RunPlan> best_of(Candidate candidate, std::int64_t* smallest) const;
  void spend_rest(RunPlan& plan) const;
  std::vector<std::string> reasons(const RunPlan& plan) const;
  std::int64_t resident_total(const RunPlan& plan) const;

  const nn::ModelLayout& layout_;
  PlannerRequest request_;
};

/// "12.10 GiB", "48.0 MiB".
std::string memory_text(std::int64_t bytes);

}  // namespace tessera::shard
