#include "keyed_bits.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/bitwise_right_shift.h>
#include <ATen/ops/bitwise_xor.h>
#include <ATen/ops/tensor.h>

#include "tessera/core/error.hpp"
#include "tessera/nn/upload.hpp"

namespace tessera::nn {
namespace {

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

}  // namespace

std::vector<std::uint64_t> row_keys(const at::Tensor& x, std::string_view what, std::string_view site,
                                    const ForwardContext& ctx) {
  if (static_cast<std::int64_t>(ctx.sample_keys.size()) != x.size(0)) {
    throw RunError("{} at '{}': {} sample keys for {} rows", what, site, ctx.sample_keys.size(), x.size(0));
  }
  const std::uint64_t site_key = hash_name(site);
  std::vector<std::uint64_t> keys;
  keys.reserve(ctx.sample_keys.size());
  for (const std::uint64_t sample : ctx.sample_keys) {
    keys.push_back(mix_keys(ctx.seed, static_cast<std::uint64_t>(ctx.step), sample, site_key));
  }
  return keys;
}

at::Tensor keyed_bits_by_tensor_ops(const at::Tensor& x, const std::vector<std::uint64_t>& keys) {
  const auto rows = static_cast<std::int64_t>(keys.size());
  const std::int64_t width = rows == 0 ? 0 : x.numel() / rows;
  const auto options = at::TensorOptions().dtype(at::kLong).device(x.device());
  const std::vector<std::int64_t> as_signed(keys.begin(), keys.end());
  const at::Tensor key = upload(at::tensor(as_signed, at::TensorOptions().dtype(at::kLong)), x.device()).unsqueeze(1);
  const at::Tensor counter = mix64_tensor(at::arange(width, options)).unsqueeze(0);
  return shift_right(mix64_tensor(at::bitwise_xor(key, counter)), 64 - kKeyedBits);
}

}  // namespace tessera::nn
