#include "tessera/comm/transports.hpp"

#include <fmt/format.h>

#include <array>

#include "tessera/comm/agree.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/nccl.hpp"
#include "tessera/comm/schedule_check.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {
namespace {

/// Collective: the same answer on every rank.
bool want_gpu(Communicator& control, const MpiEnv& env, const std::string& device) {
  if (device != "auto" && device != "cpu" && device != "cuda") {
    throw RequestError("device: '{}' is none of auto, cpu, cuda", device);  // the flag is the same on every rank
  }
  if (device != "auto") return device == "cuda";
  std::int64_t found = built_with_cuda() && gpu_count() >= env.local_size() ? 1 : 0;
  control.all_reduce({&found, 1, DType::i64}, ReduceOp::min);
  return found != 0;
}

}  // namespace

Transports::Transports(MpiEnv& env, const TransportOptions& options) : control_(make_mpi(env)) {
  if (options.ranks_per_node < 0 || (options.ranks_per_node > 0 && env.size() % options.ranks_per_node != 0)) {
    RequestError error("nodes of {} ranks do not divide the {} ranks of the job", options.ranks_per_node, env.size());
    error.mark_everywhere();
    throw error;
  }
  if (want_gpu(*control_, env, options.device)) {
    on_every_rank(*control_, [&] { gpu_ = Gpu::open(env.local_rank(), env.local_size()); });
    gather_ = make_nccl(*gpu_, *control_, "gather");
    reduce_ = make_nccl(*gpu_, *control_, "reduce");
  } else {
    gather_ = control_->split(0, control_->rank(), "gather");
    reduce_ = control_->split(0, control_->rank(), "reduce");
  }
  make_nodes(env, options.ranks_per_node);
  if (options.check_schedule) check_schedules();
  control_->reset_counters();
  fabric_ = {control_.get(), gather_.get(), reduce_.get(), node_gather_.get(), cross_gather_.get()};
}

void Transports::make_nodes(const MpiEnv& env, int ranks_per_node) {
  const bool played = ranks_per_node > 0;
  const int nodes = played ? env.size() / ranks_per_node : env.nodes();
  if (nodes == 1) return;
  std::array<std::int64_t, 2> ranks{env.local_size(), -env.local_size()};
  control_->all_reduce({ranks.data(), 2, DType::i64}, ReduceOp::min);
  if (!played && ranks[0] != -ranks[1]) {
    warning_ = fmt::format(
        "the {} hosts run {} to {} ranks each: they count as one node, so weights are not sharded "
        "inside a host alone; give every host as many ranks",
        nodes, ranks[0], -ranks[1]);
    return;
  }
  const int node = played ? env.rank() / ranks_per_node : env.node();
  const int place = played ? env.rank() % ranks_per_node : env.local_rank();
  node_gather_ = gather_->split(node, place, "node gather");
  cross_gather_ = gather_->split(place, node, "cross gather");
}

void Transports::check_schedules() {
  for (Communicator* comm : {gather_.get(), reduce_.get()}) {
    comm->set_schedule_check(
        std::make_unique<ScheduleCheck>(control_->split(0, control_->rank(), "check " + comm->name())));
  }
  if (!node_gather_) return;
  // The same groups once more, on the host.
  const int node = cross_gather_->rank();
  const int place = node_gather_->rank();
  node_gather_->set_schedule_check(std::make_unique<ScheduleCheck>(control_->split(node, place, "check node gather")));
  cross_gather_->set_schedule_check(
      std::make_unique<ScheduleCheck>(control_->split(place, node, "check cross gather")));
}

Transports::~Transports() = default;

void Transports::close() {
  for (Communicator* comm : {cross_gather_.get(), node_gather_.get(), reduce_.get(), gather_.get(), control_.get()}) {
    if (comm != nullptr) comm->close();
  }
}

}  // namespace tessera::comm
