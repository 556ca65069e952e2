#pragma once
// A model and its training step, as tests/bench/engine.cpp measures them.
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <string>

#include "tessera/comm/fabric.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/shard/plan.hpp"
#include "tessera/shard/planner.hpp"

namespace tessera::bench {

struct WorkloadShape {
  std::string name;
  std::int64_t hidden, layers, heads, inner, vocabulary, length, rows;  ///< rows of one rank
  bool lora;                                                            ///< r 8, alpha 16, on q and v
  bool ends;                                                            ///< with LoRA: embedding and head train too
};
/// "w1", "w2" or "w3". Throws RequestError for another.
WorkloadShape workload_named(const std::string& name);

struct EngineSettings {
  bool checkpointing = true;
  bool resident = false;        ///< frozen weights are gathered once in the run
  int prefetch = 1;             ///< EngineConfig's
  std::int64_t keep_bytes = 0;  ///< EngineConfig's
  bool reproducible = true;     ///< EngineConfig's
  c10::Device device = c10::Device(c10::DeviceType::CPU);
};

struct StepResult {
  double seconds = 0;
  double comm_wait = 0;  ///< s
  double loss = 0;       ///< mean over this rank's tokens
};

class Workload {
 public:
  /// Random weights, the same for any number of ranks. Collective.
  Workload(const WorkloadShape& shape, const comm::Fabric& fabric, const EngineSettings& settings);
  ~Workload();
  /// Forward, backward, clipping and AdamW on one micro-batch. Collective.
  StepResult step();
  std::int64_t tokens_per_rank() const;
  shard::Plan plan() const;
  shard::MemoryReport memory() const;
  /// The planner's prediction for this configuration; `baseline`: bytes of the process without the model.
  shard::MemoryEstimate predicted(std::int64_t baseline) const;
  /// Lets the engine go, before the communicators do.
  void close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::bench
