#pragma once
/// Weights of a small model, whole, in this process: for `tessera forward` on one rank, tests and tools. The ZeRO-3
/// engine loads by itself, slice by slice.
#include <cstdint>

#include "tessera/io/tensor_source.hpp"
#include "tessera/nn/param.hpp"

namespace tessera::models {

/// Binds every parameter of the layout to its tensor of `source` (names as the layout's), fp32 on the CPU; trainable
/// ones require gradients. Throws RequestError listing all missing and all mis-shaped tensors at once.
void load_local(nn::ModelLayout& layout, const io::TensorSource& source);

}  // namespace tessera::models
