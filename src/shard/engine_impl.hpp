#pragma once
// Engine::Impl: the schedule of units. engine.cpp holds what runs in a step, engine_units.cpp how units come and go,
// engine_check.cpp what the ranks compare, engine_load.cpp what fills the slices.
#include <map>

#include "shard/autograd_bridge.hpp"
#include "shard/group.hpp"
#include "shard/lanes.hpp"
#include "shard/schedule.hpp"
#include "tessera/core/exact_sum.hpp"
#include "tessera/shard/engine.hpp"

namespace tessera::shard {

struct Engine::Impl final : BackwardHooks {
  struct UnitState {
    std::vector<int> groups;           // frozen first, then trained, then those it borrows
    std::size_t own = 0;               // how many of them are not borrowed
    std::vector<std::size_t> by_rows;  // row matrices that its function visits
    bool fused = false;
    bool needs_graph = false;  // something of its own or an adapter on it trains
    bool recompute = true;
    bool reads_in_backward = true;
    int entered = 0;  // micro-batches whose backward has entered this unit in this pass …
    int left = 0;     // … and left it
    TraceLog::Clock::time_point backward_since{};
  };
  // A matrix that is gathered block by block of rows. Each block is a call of the schedule, as a unit is.
  struct RowMatrix {
    nn::Param param;
    std::vector<nn::UnitId> calls;  // ids behind the layout's units
  };
  // What was issued, for the comparison of the ranks.
  enum class Event : std::uint8_t { gather, reduce };

  Impl(const nn::ModelLayout& layout, comm::Fabric fabric, EngineConfig config);

  void enter_backward(nn::UnitId unit) override;
  void leave_backward(nn::UnitId unit) override;

  UnitState& state(nn::UnitId unit) { return units.at(static_cast<std::size_t>(unit)); }
  bool is_block(nn::UnitId call) const { return static_cast<std::size_t>(call) >= layout.units().size(); }
  Group& group(int id) { return *groups[static_cast<std::size_t>(id)]; }
  const std::string& name(nn::UnitId call) const;  // of a unit, or of the unit whose rows the call gathers
  std::string event_name(std::size_t index) const;

  void open_pass(Pass which, int micro_batches);
  void acquire(nn::UnitId unit);
  void release(nn::UnitId unit);
  void visit_rows(const RowMatrix& matrix, const nn::RowsFn& fn);
  std::pair<BufferPool::Block, at::Tensor> gather_rows(const RowMatrix& matrix);
  void add_unit(std::size_t index);
  void add_rows(std::size_t index, const std::vector<GroupPart>& blocks);
  int add_group(std::size_t unit, const GroupPart& part);
  void follow(nn::UnitId unit);
  Schedule* schedule();  // of the running pass; null in free order
  void gather(int group);
  void drop_idle();  // lets every unused group go
  void trim_idle();  // lets those go that the schedule does not keep
  void close_backward(nn::UnitId unit);
  void reduce_unit(UnitState& unit);
  void reduce_group(int id);
  void reduce_lent();  // groups whose owner had no backward of its own in this pass
  void open_fused_grads();
  void reduce_fused();
  void finish_reductions();
  void note(Event event, int group);
  void timed_wait(std::string_view what, const std::function<void()>& wait);
  void span(TraceLog::Row row, std::string_view what, TraceLog::Clock::time_point start);
  double norm_of_own_gradients(ExactSum* exact) const;

  const nn::ModelLayout& layout;
  comm::Fabric fabric;
  EngineConfig config;
  BufferPool pool;
  CopyStream copies;
  std::vector<std::unique_ptr<Group>> groups;
  std::vector<int> group_unit;   // the unit each group belongs to
  std::vector<UnitState> units;  // of the layout, then one for each block of rows
  std::vector<RowMatrix> row_matrices;
  std::vector<int> block_unit;  // the unit each block of rows belongs to
  std::int64_t row_bytes;       // of a block
  GroupUse use;
  std::vector<TrainedSlice> trained_slices;
  std::vector<int> reducing;  // groups whose reduction is under way
  std::map<Pass, Schedule> schedules;
  Pass pass = Pass::free_order;
  Pass last_pass = Pass::free_order;
  std::size_t position = 0;  // in the order of the running pass
  std::unique_ptr<Lanes> lanes;
  int lane_count = 1;
  at::Tensor anchor;  // what makes a checkpointed unit's outputs require a gradient
  double comm_wait_s = 0;
  TraceLog* trace = nullptr;
  std::vector<TraceLog::Clock::time_point> issued;  // when each group's gather or reduction under way was started

  std::vector<std::uint32_t> events;  // of this step: group and kind
  struct NormsOfGroup {
    int group;
    at::Tensor norms;
  };
  std::vector<NormsOfGroup> gradient_norms;  // 1-norms of this step's local gradients, by reduction
};

}  // namespace tessera::shard
