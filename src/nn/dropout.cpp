#include "tessera/nn/dropout.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/bitwise_right_shift.h>
#include <ATen/ops/bitwise_xor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"

namespace tessera::nn {
namespace {

/// An element is kept when the upper 24 bits of its hash are at least this.
std::int64_t drop_threshold(double p) {
  return static_cast<std::int64_t>(p * 0x1.0p24);
}

std::uint64_t row_key(const ForwardContext& ctx, std::uint64_t site, std::size_t row) {
  return mix_keys(ctx.seed, static_cast<std::uint64_t>(ctx.step), ctx.sample_keys[row], site);
}

at::Tensor mask_natively(const at::Tensor& x, double p, std::uint64_t site, const ForwardContext& ctx) {
  at::Tensor mask = at::empty(x.sizes(), at::kFloat);
  const std::int64_t rows = x.size(0);
  const std::int64_t width = rows == 0 ? 0 : x.numel() / rows;
  const auto threshold = static_cast<std::uint64_t>(drop_threshold(p));
  const auto keep = static_cast<float>(1.0 / (1.0 - p));
  float* out = mask.data_ptr<float>();
  for (std::int64_t row = 0; row < rows; ++row) {
    const CounterStream stream(row_key(ctx, site, static_cast<std::size_t>(row)));
    for (std::int64_t j = 0; j < width; ++j) {
      *out++ = (stream.bits(static_cast<std::uint64_t>(j)) >> 40) >= threshold ? keep : 0.0F;
    }
  }
  return mask.to(x.scalar_type());
}

/// Logical shift right: torch's shift of signed integers is arithmetic.
at::Tensor shift_right(const at::Tensor& z, std::int64_t bits) {
  return at::bitwise_and(at::bitwise_right_shift(z, bits), static_cast<std::int64_t>((1ULL << (64 - bits)) - 1));
}

/// mix64 of core/random.hpp on int64 tensors; products wrap as unsigned ones do.
at::Tensor mix64_tensor(at::Tensor z) {
  const auto constant = [](std::uint64_t c) { return static_cast<std::int64_t>(c); };
  z = z + constant(0x9e3779b97f4a7c15ULL);
  z = at::bitwise_xor(z, shift_right(z, 30)) * constant(0xbf58476d1ce4e5b9ULL);
  z = at::bitwise_xor(z, shift_right(z, 27)) * constant(0x94d049bb133111ebULL);
  return at::bitwise_xor(z, shift_right(z, 31));
}

at::Tensor mask_by_tensor_ops(const at::Tensor& x, double p, std::uint64_t site, const ForwardContext& ctx) {
  const std::int64_t rows = x.size(0);
  const std::int64_t width = rows == 0 ? 0 : x.numel() / rows;
  const auto options = at::TensorOptions().dtype(at::kLong).device(x.device());
  std::vector<std::int64_t> keys;
  keys.reserve(static_cast<std::size_t>(rows));
  for (std::int64_t row = 0; row < rows; ++row) {
    keys.push_back(static_cast<std::int64_t>(row_key(ctx, site, static_cast<std::size_t>(row))));
  }
  const at::Tensor key = at::tensor(keys, at::TensorOptions().dtype(at::kLong)).to(x.device()).unsqueeze(1);
  const at::Tensor counter = mix64_tensor(at::arange(width, options)).unsqueeze(0);
  const at::Tensor bits = shift_right(mix64_tensor(at::bitwise_xor(key, counter)), 40);
  return bits.ge(drop_threshold(p)).to(x.scalar_type()).mul(1.0 / (1.0 - p)).view(x.sizes());
}

}  // namespace

at::Tensor dropout_mask(const at::Tensor& x, double p, std::string_view site, const ForwardContext& ctx,
                        bool by_tensor_ops) {
  if (!(p >= 0.0 && p < 1.0)) throw RequestError("dropout: probability {} is not in [0, 1)", p);
  if (static_cast<std::int64_t>(ctx.sample_keys.size()) != x.size(0)) {
    throw RunError("dropout at '{}': {} sample keys for {} rows", site, ctx.sample_keys.size(), x.size(0));
  }
  const std::uint64_t site_key = hash_name(site);
  return by_tensor_ops || !x.is_cpu() ? mask_by_tensor_ops(x, p, site_key, ctx) : mask_natively(x, p, site_key, ctx);
}

at::Tensor dropout(const at::Tensor& x, double p, std::string_view site, const ForwardContext& ctx) {
  if (!ctx.training || p == 0.0) return x;
  return x * dropout_mask(x, p, site, ctx);
}

}  // namespace tessera::nn
