#pragma once
// How LLaVA's text becomes the sequence the language model sees.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "tessera/models/llava.hpp"

namespace tessera::models {

/// The sequence as places: element b*T + t of `index` is a row of [text embeddings (B*L); positions of all pictures;
/// one row of zeros]. All of it lies in host memory.
struct LlavaPlan {
  at::Tensor ids;                         ///< i64 [B,L], 0 in place of placeholders
  at::Tensor index;                       ///< i64 [B*T]
  at::Tensor mask;                        ///< bool [B,T]
  at::Tensor labels;                      ///< i64 [B,T] or undefined
  std::vector<std::uint64_t> image_keys;  ///< [N], by row and place in it; none where the batch names no rows
};

/// Throws RequestError when the batch contradicts itself.
LlavaPlan plan_llava(const LlavaBatch& batch, const LlavaConfig& config);

/// text [B,L,D], features [N,P,D] or [F,D] to [B,T,D].
at::Tensor place(const LlavaPlan& plan, const at::Tensor& text, const at::Tensor& features);

}  // namespace tessera::models
