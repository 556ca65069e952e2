#include "tessera/nn/int8_input.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/where.h>
#include <c10/util/Half.h>
#include <torch/csrc/autograd/custom_function.h>

namespace tessera::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor decomposed(const at::Tensor& x, double threshold) {
  const at::Tensor rows = x.reshape({-1, x.size(-1)});
  at::Tensor h = rows.to(at::kHalf).to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  at::Tensor magnitude = h.abs();
  at::Tensor columns;  // of outliers
  if (threshold > 0) {
    const at::Tensor outliers = magnitude.ge(static_cast<float>(c10::Half(static_cast<float>(threshold))));
    columns = outliers.any(0);
    magnitude.masked_fill_(outliers, 0.0);
  }
  const at::Tensor absmax = magnitude.amax(1, /*keepdim=*/true);
  const at::Tensor scale = absmax.reciprocal().mul_(127.0).masked_fill_(absmax.eq(0), 0.0);
  const at::Tensor rounded = h.mul_(scale).round_().mul_(absmax.div(127.0)).to(x.scalar_type());
  return (columns.defined() ? at::where(columns, rows, rounded) : rounded).view(x.sizes());
}

class Int8Input : public torch::autograd::Function<Int8Input> {
 public:
  static at::Tensor forward(AutogradContext*, const at::Tensor& x, double threshold) {
    return decomposed(x, threshold);
  }
  static variable_list backward(AutogradContext*, const variable_list& grads) { return {grads[0], {}}; }
};

}  // namespace

at::Tensor int8_input(const at::Tensor& x, double threshold) {
  if (at::GradMode::is_enabled() && x.requires_grad()) return Int8Input::apply(x, threshold);
  return decomposed(x, threshold);
}

}  // namespace tessera::nn
