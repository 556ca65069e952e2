#pragma once
/// Operations without weights that several models share.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "tessera/nn/rope.hpp"

namespace tessera::nn {

/// x * sigmoid(1.702 x), CLIP's activation.
at::Tensor quick_gelu(const at::Tensor& x);

enum class Activation : std::uint8_t { relu, gelu, gelu_tanh, quick_gelu, silu };
at::Tensor activate(Activation kind, const at::Tensor& x);
/// transformers' `hidden_act` spellings. Throws RequestError naming the unknown one.
Activation activation_from_name(const std::string& name);

/// Splits [B,T,heads*dim] into [B,heads,T,dim].
at::Tensor split_heads(const at::Tensor& x, std::int64_t heads);
/// The inverse: [B,heads,T,dim] to [B,T,heads*dim].
at::Tensor merge_heads(const at::Tensor& x);

/// Softmax attention through LibTorch's fused kernels. q [B,h,Tq,d], k and v [B,h_kv,Tk,d] with h a multiple of h_kv.
/// `bias` is added to the scaled scores (broadcast to [B,h,Tq,Tk]); `causal` needs no bias.
/// scale: absent means d^-0.5.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const std::optional<at::Tensor>& bias, bool causal, std::optional<double> scale = std::nullopt);

/// x [B,h,T,dim] rotated by halves: x*cos + rotate_half(x)*sin, as LLaMA in transformers' layout does.
at::Tensor apply_rope(const at::Tensor& x, const RopeTables& tables);

}  // namespace tessera::nn
