#pragma once
/// Weights of a small model, whole, in this process: for `tessera forward` on one rank, tests and tools. The ZeRO-3
/// engine loads by itself, slice by slice.
#include <string>
#include <vector>

#include "tessera/io/tensor_source.hpp"
#include "tessera/nn/param.hpp"

namespace tessera::models {

/// Binds every parameter of the layout to its tensor of `source` (names as the layout's), fp32 on the CPU; trainable
/// ones require gradients. Returns the names of the tensors that no parameter took, which, as in the references, is no
/// error. Throws RequestError listing all missing, mis-shaped and unexpected tensors at once.
std::vector<std::string> load_local(nn::ModelLayout& layout, const io::TensorSource& source);

/// What to tell of tensors that no parameter took (Engine::load's `unused`, load_local's result); "" when all of them
/// are there for a reason: buffers that are computed anew, the head of a model whose head is its embedding, CLIP's text
/// half. The text names the others, the first twenty of them.
std::string unexpected_text(const std::vector<std::string>& unused, const nn::ModelLayout& layout);

}  // namespace tessera::models
