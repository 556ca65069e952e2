#include "tessera/comm/transports.hpp"

#include <string>

#include "tessera/comm/agree.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/nccl.hpp"
#include "tessera/comm/schedule_check.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {
namespace {

/// Collective: the same answer on every rank.
bool want_gpu(Communicator& control, const MpiEnv& env, std::string_view device) {
  if (device != "auto" && device != "cpu" && device != "cuda") {
    throw RequestError("device: '{}' is none of auto, cpu, cuda", device);  // the flag is the same on every rank
  }
  if (device != "auto") return device == "cuda";
  std::int64_t found = built_with_cuda() && gpu_count() >= env.local_size() ? 1 : 0;
  control.all_reduce({&found, 1, DType::i64}, ReduceOp::min);
  return found != 0;
}

}  // namespace

Transports::Transports(MpiEnv& env, std::string_view device, bool check_schedule) : control_(make_mpi(env)) {
  if (want_gpu(*control_, env, device)) {
    on_every_rank(*control_, [&] { gpu_ = Gpu::open(env.local_rank(), env.local_size()); });
    gather_ = make_nccl(*gpu_, *control_, "gather");
    reduce_ = make_nccl(*gpu_, *control_, "reduce");
  } else {
    gather_ = control_->split(0, control_->rank(), "gather");
    reduce_ = control_->split(0, control_->rank(), "reduce");
  }
  if (check_schedule) {
    gather_->set_schedule_check(std::make_unique<ScheduleCheck>(control_->split(0, control_->rank(), "check gather")));
    reduce_->set_schedule_check(std::make_unique<ScheduleCheck>(control_->split(0, control_->rank(), "check reduce")));
  }
  control_->reset_counters();
  fabric_ = {control_.get(), gather_.get(), reduce_.get()};
}

Transports::~Transports() = default;

void Transports::close() {
  for (Communicator* comm : {reduce_.get(), gather_.get(), control_.get()}) comm->close();
}

}  // namespace tessera::comm
