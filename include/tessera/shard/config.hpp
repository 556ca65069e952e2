#pragma once
/// What the engine is told: arithmetic, where each unit's weights live, and how the schedule spends memory on time.
/// The same on every rank; Engine::settle compares it. Units: bytes.
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tessera/core/quantize.hpp"
#include "tessera/nn/param.hpp"

namespace tessera::shard {

enum class ComputeType : std::uint8_t { f32, bf16, f16 };

/// Where the frozen weights of a unit are kept. Trained weights are always cut over all ranks.
enum class Placement : std::uint8_t {
  world,     ///< cut over all ranks; gathered around each use
  node,      ///< cut over the ranks of a node, a replica per node: gathers stay inside the node
  resident,  ///< whole on every rank, gathered once in the run
};

/// How one unit is run.
struct UnitPolicy {
  Placement frozen = Placement::world;
  /// Activation checkpointing: forward keeps the unit's inputs alone and backward runs it again.
  bool recompute = true;
  /// Frozen weights lie in host memory (pinned beside a GPU) and are copied to the device for each use.
  bool offload = false;
  bool operator==(const UnitPolicy&) const = default;
};

/// Frozen matrices that are kept and moved in four or eight bits (core/quantize.hpp) and expanded to the compute type
/// around each use. Each rank quantises what it reads. Inputs of linear layers in int8 are quantised too
/// (nn/int8_input.hpp); the engine tells the layers so.
struct Quantization {
  QuantKind kind = QuantKind::none;
  bool double_quant = false;  ///< of nf4 and fp4
  /// Names of the matrices; those that train stay as they are all the same.
  std::shared_ptr<const std::set<std::string>> weights;
  bool covers(const std::string& name) const {
    return kind != QuantKind::none && weights != nullptr && weights->contains(name);
  }
  double threshold = kOutlierThreshold;  ///< of int8: from where on an input's columns stay as they are; 0: none do
};

struct EngineConfig {
  ComputeType compute = ComputeType::f32;
  c10::Device device = c10::Device(c10::DeviceType::CPU);
  Quantization quantization{};
  UnitPolicy policy;                ///< of every unit …
  std::vector<UnitPolicy> units{};  ///< … unless there is one for each unit of the layout here
  /// Calls whose units are gathered ahead of their use; 0: none.
  int prefetch = 1;
  /// Gathered weights that may stay after their use, beyond what the next calls need: those used again soonest stay.
  std::int64_t keep_bytes = 0;
  /// Rows of a frozen embedding or head that are gathered at once; 0: as much as the largest other unit takes.
  std::int64_t row_block_bytes = 0;
  /// Masters and moments lie in host memory and are updated there.
  bool offload_optimizer = false;
  /// fp32 states of the optimiser per trained element, besides the master.
  int moments = 2;
  /// These as 8-bit codes in blocks (moments8.hpp), but for those of small tensors and embeddings.
  bool moments_8bit = false;
  /// A running average of the masters beside them, in fp32.
  bool average = false;
  /// The unit beside whose masters AdaLoRA's two averages lie, in fp32; -1: none.
  nn::UnitId importance = -1;
  /// Micro-batches that run layer by layer together (Engine::run_layer_major), so that a gather serves all of them.
  int layer_major = 1;
  /// The same bits for any number of ranks: gradients of micro-batch m are added to those of the micro-batches before
  /// it, one micro-batch after another, and norms are summed without rounding. Needs micro-batch m of a step to run on
  /// rank m % W in its pass m / W, and as many threads per rank.
  bool reproducible = true;

  const UnitPolicy& policy_of(std::size_t unit) const { return units.empty() ? policy : units.at(unit); }
};

}  // namespace tessera::shard
