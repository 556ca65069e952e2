#include "tessera/nn/noise.hpp"
#include "tessera/nn/upload.hpp"

#include "keyed_bits.hpp"

namespace tessera::nn {

at::Tensor uniform_noise(const at::Tensor& x, std::string_view site, const ForwardContext& ctx, bool by_tensor_ops) {
  constexpr float kUnit = 2.0F / (1 << kKeyedBits);  // exact, so both forms have the same values
  const auto keys = row_keys(x, "noise", site, ctx);
  if (by_tensor_ops || !x.is_cpu()) {
    const at::Tensor bits = keyed_bits_by_tensor_ops(x, keys);
    return bits.to(at::kFloat).mul_(kUnit).sub_(1.0).to(x.scalar_type()).view(x.sizes());
  }
  return fill_by_keyed_bits(x, keys, [](std::uint64_t bits) { return static_cast<float>(bits) * kUnit - 1.0F; })
      .to(x.scalar_type());
}

at::Tensor with_embedding_noise(const at::Tensor& x, const at::Tensor& positions, double alpha, std::string_view site,
                                const ForwardContext& ctx) {
  if (!ctx.training || alpha == 0.0) return x;
  const at::Tensor size =
      upload(positions, x.device()).to(at::kFloat).mul(static_cast<double>(x.size(2))).rsqrt_().mul_(alpha);
  return x.add(uniform_noise(x, site, ctx).mul_(size.to(x.scalar_type()).view({-1, 1, 1})));
}

}  // namespace tessera::nn
