#include "tessera/nn/dropout.hpp"

#include <ATen/TensorOperators.h>

#include "keyed_bits.hpp"
#include "tessera/core/error.hpp"

namespace tessera::nn {

at::Tensor dropout_mask(const at::Tensor& x, double p, std::string_view site, const ForwardContext& ctx,
                        bool by_tensor_ops) {
  if (!(p >= 0.0 && p < 1.0)) throw RequestError("dropout: probability {} is not in [0, 1)", p);
  const auto keys = row_keys(x, "dropout", site, ctx);
  const auto threshold = static_cast<std::int64_t>(p * (1 << kKeyedBits));  // an element is kept from here on
  if (by_tensor_ops || !x.is_cpu()) {
    const at::Tensor bits = keyed_bits_by_tensor_ops(x, keys);
    return bits.ge(threshold).to(x.scalar_type()).mul(1.0 / (1.0 - p)).view(x.sizes());
  }
  const auto keep = static_cast<float>(1.0 / (1.0 - p));
  return fill_by_keyed_bits(x, keys,
                            [keep, first = static_cast<std::uint64_t>(threshold)](std::uint64_t bits) {
                              return bits >= first ? keep : 0.0F;
                            })
      .to(x.scalar_type());
}

at::Tensor dropout(const at::Tensor& x, double p, std::string_view site, const ForwardContext& ctx) {
  if (!ctx.training || p == 0.0) return x;
  return x * dropout_mask(x, p, site, ctx);
}

}  // namespace tessera::nn
