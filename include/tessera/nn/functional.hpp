#pragma once
/// Operations without weights that several models share.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

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

/// Additive mask [B,1,T,T] of a causal language model: 0 where query i may see key j <= i with mask[b,j], the dtype's
/// lowest value elsewhere (finite, so a row that sees nothing averages all keys, as transformers' eager attention
/// does). nullopt when `mask` (bool [B,T]) is all true: plain causal attention then.
std::optional<at::Tensor> causal_padding_bias(const at::Tensor& mask, const at::TensorOptions& options);

/// Inverse frequencies of rotary positions and the tables made of them.
struct RopeConfig {
  std::int64_t dim = 0;  ///< of a head
  double theta = 10000.0;
  enum class Scaling : std::uint8_t { none, linear, llama3 } scaling = Scaling::none;
  double factor = 1.0;
  double low_freq_factor = 1.0;   ///< llama3
  double high_freq_factor = 4.0;  ///< llama3
  double original_max_positions = 8192;
};
struct RopeTables {
  at::Tensor cos;  ///< [T, dim]
  at::Tensor sin;  ///< [T, dim]
};
/// Computed in fp32 for positions 0…T-1, then cast to `options`.
RopeTables rope_tables(const RopeConfig& config, std::int64_t positions, const at::TensorOptions& options);
/// x [B,h,T,dim] rotated by halves: x*cos + rotate_half(x)*sin, as LLaMA in transformers' layout does.
at::Tensor apply_rope(const at::Tensor& x, const RopeTables& tables);

}  // namespace tessera::nn
