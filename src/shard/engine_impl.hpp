#pragma once
// Engine::Impl: the schedule of units. engine.cpp holds what runs in a step, engine_load.cpp what fills the slices.
#include <map>

#include "shard/autograd_bridge.hpp"
#include "shard/group.hpp"
#include "tessera/shard/engine.hpp"

namespace tessera::shard {

struct Engine::Impl final : BackwardHooks {
  struct UnitState {
    std::vector<std::unique_ptr<Group>> groups;  // frozen first, then trained
    int users = 0;                               // calls that need the weights now
    bool fused = false;
    bool trained = false;
    bool adapted = false;
    bool in_backward = false;
  };
  // The order of units of one kind of pass, recorded once and then followed.
  struct Trace {
    std::vector<nn::UnitId> order;
    bool recorded = false;
  };

  Impl(const nn::ModelLayout& layout, comm::Fabric fabric, EngineConfig config);

  void enter_backward(nn::UnitId unit) override;
  void leave_backward(nn::UnitId unit) override;

  UnitState& state(nn::UnitId unit) { return units_.at(static_cast<std::size_t>(unit)); }
  const std::string& name(nn::UnitId unit) const { return layout.unit(unit).name; }
  void acquire(nn::UnitId unit);
  void release(nn::UnitId unit);
  void follow_trace(nn::UnitId unit);
  void prefetch_next();
  void gather(UnitState& unit);
  void let_go(UnitState& unit);
  bool keeps(const Group& group) const { return config.resident_frozen && !group.trained(); }
  void open_grads(UnitState& unit);
  void start_reduce(UnitState& unit);
  void finish_reductions();
  void timed_wait(const std::function<void()>& wait);

  const nn::ModelLayout& layout;
  comm::Fabric fabric;
  EngineConfig config;
  BufferPool pool;
  std::vector<UnitState> units_;
  std::vector<TrainedSlice> trained_slices;
  std::vector<Group*> reducing;
  std::map<Pass, Trace> traces;
  Pass pass = Pass::free_order;
  std::size_t position = 0;  // in the trace of the running pass
  at::Tensor anchor;         // what makes a checkpointed unit's outputs require a gradient
  double comm_wait_s = 0;
};

}  // namespace tessera::shard
