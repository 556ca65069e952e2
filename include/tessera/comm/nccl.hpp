#pragma once
/// The NCCL transport: collectives over device memory.
///
/// Each communicator has a high-priority stream of its own. A start waits, on the device, for what the thread's current
/// stream holds; Pending::wait() makes the current stream wait for the collective. The host never blocks for data.
/// A monitor thread sees finished collectives (for the flight record) and asynchronous errors; on an error it aborts
/// the communicator, so that its kernels end, and the next call throws. Gathers and reductions want a communicator each
/// (see fabric.hpp), started in one order on all ranks; NCCL_LAUNCH_ORDER_IMPLICIT is set to 1 unless the user has set
/// it. bf16 and f16 are reduced as NCCL does it, with a rounding at every addition: pass gradients as f32. The values
/// depend on NCCL's choice of algorithm, but all ranks get the same bits.
#include <memory>
#include <string_view>

#include "tessera/comm/communicator.hpp"
#include "tessera/comm/device.hpp"

namespace tessera::comm {

/// A communicator of the ranks of `control`, each with its own GPU. Collective over control, which carries NCCL's id.
/// Throws CommError with what NCCL said; RequestError in a build without CUDA.
std::unique_ptr<Communicator> make_nccl(const Gpu& gpu, Communicator& control, std::string_view name);

}  // namespace tessera::comm
