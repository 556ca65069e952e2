#pragma once
// What a run says about its plan: before the first step, and at the end beside what was measured.
#include <cstdint>
#include <filesystem>
#include <vector>

#include "tessera/comm/fabric.hpp"
#include "tessera/core/log.hpp"
#include "tessera/core/trace.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/shard/planner.hpp"

namespace tessera::train {

// Figures of a run's steps; the first, which records the order of units, is left out where there are others.
class StepFigures {
 public:
  void add(double step_s, double comm_wait_s, std::int64_t gathered, std::int64_t reduced);
  void add_tokens(std::int64_t tokens, std::int64_t padding);  // of the global batch
  bool empty() const noexcept { return seconds_.empty(); }
  double step_s() const;  // median
  double comm_wait_s() const;
  std::int64_t gathered() const;  // of the last step
  std::int64_t reduced() const;
  double padding_share() const;  // of all positions

 private:
  std::vector<double> seconds_, waits_;
  std::int64_t gathered_ = 0, reduced_ = 0;
  std::int64_t tokens_ = 0, padding_ = 0;
};

struct Measured {
  shard::MemoryReport memory;
  std::int64_t peak = 0;
  std::int64_t batches = 0;  // held ahead at most
};

void log_plan(const Log& log, const shard::RunPlan& plan, int ranks);
void log_outcome(const Log& log, const shard::RunPlan& plan, const Measured& measured, const StepFigures& steps);

// The timeline of every rank in one file, written by rank 0. Collective.
void write_trace(const std::filesystem::path& path, const TraceLog& mine, comm::Communicator& control, const Log& log);

}  // namespace tessera::train
