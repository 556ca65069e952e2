#pragma once
// A device that is not the CPU, on a machine that has only one: LibTorch's place for devices of others (PrivateUse1),
// with the host's memory as its own and the CPU's kernels behind every operator. What it shows about code that is
// written for GPUs: an operator that mixes tensors of the host and of the device ends with the operator's name, as CUDA
// would end it; the backward runs on the device's own thread, as it does on a GPU; side streams, events and pinned
// memory go the ways that GPUs take. What it cannot show: order between streams, for its streams are one; CUDA's
// kernels; NCCL.
#include <c10/core/Device.h>

namespace tessera::pretend {

/// Makes the device known to LibTorch; once in a program, before any tensor is made.
void register_device();

/// The only one there is.
c10::Device device();

}  // namespace tessera::pretend
