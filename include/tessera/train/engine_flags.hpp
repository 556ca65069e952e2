#pragma once
/// EngineFlags: the settings of the engine, shared by `tessera train` and `tessera plan`, and what a person's words
/// mean for a given model.
#include <cstdint>
#include <optional>
#include <string>

#include "tessera/core/options.hpp"
#include "tessera/nn/param.hpp"
#include "tessera/train/quantize_flags.hpp"

namespace tessera::shard {
struct EngineConfig;  // shard/config.hpp
struct PlanChoices;   // shard/planner.hpp
}  // namespace tessera::shard

namespace tessera::train {

struct EngineFlags {
  double memory_budget = 0;  ///< GiB of one rank; 0: what is free, less a reserve
  std::string placement = "auto";
  bool resident_frozen = false;  ///< the same as placement "resident"
  bool gradient_checkpointing = true;
  std::string recompute = "auto";
  std::string prefetch = "auto";
  std::string keep_mib = "auto";
  std::int64_t layer_major = 1;
  std::string reproducible = "auto";
  std::optional<bool> tf32;  ///< of fp32 products on GPUs; absent: as LibTorch has it, which is off
  std::string offload_optimizer = "auto";
  std::string offload_frozen = "auto";
  QuantizeFlags quantize;

  std::optional<std::int64_t> budget_bytes() const;  ///< absent: to be measured
};

void bind(Options& options, EngineFlags& flags);

/// Checks across flags, before anything is allocated. Throws RequestError naming the flag.
void validate(const EngineFlags& flags);

/// What the flags settle; the rest is the planner's. A substring of --recompute that is in no unit's name is a
/// RequestError.
shard::PlanChoices choices(const EngineFlags& flags, const nn::ModelLayout& layout);

/// Throws RequestError when the micro-batches of a rank are no multiple of --layer_major.
void check_layer_major(const EngineFlags& flags, std::int64_t micro_batches);

/// prefetch (1 where the planner may choose it), layer_major and reproducible, for this device. With --reproducible
/// true on a GPU LibTorch is told to use deterministic kernels alone, for the whole process; likewise of tf32.
void apply(const EngineFlags& flags, shard::EngineConfig& config);

/// The flags that a run without training has a use for: memory_budget, placement, resident_frozen, prefetch, keep_mib,
/// offload_frozen.
void bind_inference(Options& options, EngineFlags& flags);

}  // namespace tessera::train
