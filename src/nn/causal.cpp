#include "tessera/nn/causal.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "tessera/nn/functional.hpp"
#include "tessera/nn/upload.hpp"

namespace tessera::nn {
namespace {

double lowest_of(const at::TensorOptions& options) {
  constexpr double kLowestBFloat16 = -3.3895313892515355e38;
  constexpr double kLowestHalf = -65504.0;
  if (options.dtype() == at::kFloat) return std::numeric_limits<float>::lowest();
  return options.dtype() == at::kBFloat16 ? kLowestBFloat16 : kLowestHalf;
}

/// i - j: [T,K]
at::Tensor distances(std::int64_t queries, std::int64_t keys, const at::Device& device) {
  const auto longs = at::TensorOptions().dtype(at::kLong).device(device);
  return at::arange(keys - queries, keys, longs).unsqueeze(1) - at::arange(keys, longs).unsqueeze(0);
}

/// bool [B or 1,1,T,K]
at::Tensor hidden_keys(const at::Tensor& mask, const at::Tensor& distance, std::int64_t window) {
  at::Tensor hidden = distance.lt(0);
  if (window > 0) hidden = hidden.logical_or(distance.ge(window));
  hidden = hidden.unsqueeze(0).unsqueeze(0);
  if (mask.numel() == 0 || mask.all().item<bool>()) return hidden;
  return hidden.logical_or(mask.logical_not().unsqueeze(1).unsqueeze(1));
}

bool is_blind(const at::Tensor& hidden) {
  return at::GradMode::is_enabled() && hidden.numel() > 0 && hidden.all(-1).any().item<bool>();
}

/// Repeats each key-value head for the query heads that share it.
at::Tensor for_heads(const at::Tensor& x, std::int64_t heads) {
  return x.size(1) == heads ? x : at::repeat_interleave(x, heads / x.size(1), 1);
}

}  // namespace

at::Tensor masked_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const CausalMask& mask,
                            std::optional<double> scale) {
  if (!mask.blind) return attention(q, k, v, mask.bias, mask.causal, scale);
  const double factor = scale.value_or(1.0 / std::sqrt(static_cast<double>(q.size(3))));
  at::Tensor scores = at::matmul(q, for_heads(k, q.size(1)).transpose(-2, -1)) * factor;
  scores = mask.replaced.defined() ? at::where(mask.replaced, *mask.bias, scores + *mask.bias) : scores + *mask.bias;
  return at::matmul(at::softmax(scores, -1, at::kFloat).to(v.scalar_type()), for_heads(v, q.size(1)));
}

CausalMask causal_mask(const at::Tensor& mask, std::int64_t queries, std::int64_t window,
                       const at::TensorOptions& options) {
  const std::int64_t keys = mask.size(1);
  const bool windowed = window > 0 && window < keys;
  const bool whole = !windowed && (mask.numel() == 0 || mask.all().item<bool>());
  CausalMask result;
  result.causal = whole && queries == keys;
  if (whole && (queries == keys || queries == 1)) return result;
  const at::Tensor hidden =
      hidden_keys(upload(mask, options.device()), distances(queries, keys, options.device()), windowed ? window : 0);
  result.bias = at::where(hidden, at::full({1}, lowest_of(options), options), at::zeros({1}, options));
  result.blind = is_blind(hidden);
  return result;
}

bool padded_on_the_right(const at::Tensor& mask) {
  const std::int64_t keys = mask.size(1);
  if (keys < 2 || mask.size(0) == 0) return true;
  const at::Tensor begins = mask.narrow(1, 1, keys - 1).logical_and(mask.narrow(1, 0, keys - 1).logical_not());
  return !begins.any().item<bool>();
}

at::Tensor alibi_slopes(std::int64_t heads) {
  constexpr double kBiasMax = 8.0;
  std::int64_t power = 1;
  while (power < heads) power *= 2;
  const at::Tensor exponent = at::arange(1, power + 1, at::kFloat) * (kBiasMax / static_cast<double>(power));
  const at::Tensor slopes = 1.0 / at::pow(2.0, exponent);
  if (power == heads) return slopes;
  // i counts from 1, so those of even i stand at odd places.
  return at::cat({slopes.slice(0, 1, power, 2), slopes.slice(0, 0, power, 2)}).narrow(0, 0, heads);
}

CausalMask alibi_mask(const at::Tensor& mask, std::int64_t queries, std::int64_t heads,
                      const at::TensorOptions& options) {
  const at::Tensor distance = distances(queries, mask.size(1), options.device());
  const at::Tensor slopes = upload(alibi_slopes(heads), options.device()).view({1, heads, 1, 1});
  const at::Tensor bias = (distance.neg().to(at::kFloat) * slopes).to(options);
  const at::Tensor hidden = hidden_keys(upload(mask, options.device()), distance, 0);
  CausalMask result;
  result.bias = at::where(hidden, at::full({1}, lowest_of(options), options), bias);
  result.blind = is_blind(hidden);
  if (result.blind) result.replaced = hidden;
  return result;
}

}  // namespace tessera::nn
