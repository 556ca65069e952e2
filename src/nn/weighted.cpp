#include "tessera/nn/weighted.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/embedding_dense_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>

namespace tessera::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool trains(const at::Tensor& weight) {
  return at::GradMode::is_enabled() && weight.requires_grad();
}

/// Whether a gradient may be added to `weight`'s own now: backward() over all leaves runs, and no graph of it is
/// wanted.
bool adds_in_place(const at::Tensor& weight) {
  if (at::GradMode::is_enabled() || !weight.is_leaf() || !weight.grad().defined()) return false;
  const auto* wanted = torch::autograd::get_current_graph_task_exec_info();  // set when only some inputs are asked for
  return wanted == nullptr || wanted->empty();
}

/// The gradient left [V, n] x right [n, D] of a weight: added in place, then undefined; or as it is.
at::Tensor product_gradient(const at::Tensor& weight, const at::Tensor& left, const at::Tensor& right) {
  if (!adds_in_place(weight)) return at::mm(left, right);
  weight.grad().addmm_(left, right);
  return {};
}

at::Tensor rows_of(const at::Tensor& x) {
  return x.dim() == 2 ? x : x.reshape({-1, x.size(-1)});
}

class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, bool value) {
    ctx->save_for_backward({weight.requires_grad() ? x : at::Tensor(), weight});
    ctx->saved_data["x"] = x.sizes();
    ctx->saved_data["bias"] = bias.has_value() && bias->requires_grad();  // without one there is no third edge to ask
    if (value) return at::linear(x, weight, bias);
    std::vector<std::int64_t> shape = x.sizes().vec();
    shape.back() = weight.size(0);
    return at::zeros({1}, x.options()).expand(shape);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const at::Tensor g = rows_of(grads[0]);
    variable_list out(4);
    if (ctx->needs_input_grad(0)) out[0] = at::mm(g, weight).view(ctx->saved_data["x"].toIntVector());
    if (ctx->needs_input_grad(1)) out[1] = product_gradient(weight, g.t(), rows_of(x));
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)) out[2] = g.sum(0);
    return out;
  }
};

class EmbeddingFunction : public torch::autograd::Function<EmbeddingFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& weight, const at::Tensor& ids) {
    ctx->save_for_backward({weight, ids});
    return at::embedding(weight, ids);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &weight = saved[0], &ids = saved[1];
    variable_list out(2);
    // A GPU adds rows that occur twice in no fixed order; LibTorch's own gradient sorts them first.
    if (adds_in_place(weight) && weight.is_cpu()) {
      weight.grad().index_add_(0, ids.reshape({-1}), rows_of(grads[0]));
    } else {
      out[0] = at::embedding_dense_backward(grads[0], ids, weight.size(0), -1, false);
    }
    return out;
  }
};

constexpr std::int64_t kLogitBytes = std::int64_t{32} << 20;  // of a chunk, in fp32

/// The loss and what backward needs of it. Undefined tensors are what nobody asked for.
struct HeadLoss {
  at::Tensor sum;
  at::Tensor input_grad;   ///< [n, D]
  at::Tensor logit_grad;   ///< [n, V]; or else
  at::Tensor weight_grad;  ///< [V, D]
};

HeadLoss head_loss(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& targets, double smoothing,
                   bool input_grad, bool weight_grad) {
  const std::int64_t rows = x.size(0);
  const std::int64_t classes = weight.size(0);
  const bool keep_logits = weight_grad && rows <= weight.size(1);
  const double elsewhere = smoothing / static_cast<double>(std::max<std::int64_t>(1, classes));  // of a target's mass
  HeadLoss out;
  out.sum = at::zeros({}, x.options().dtype(at::kFloat));
  if (input_grad) out.input_grad = at::empty_like(x);
  if (keep_logits) out.logit_grad = at::empty({rows, classes}, x.options());
  if (weight_grad && !keep_logits) out.weight_grad = at::zeros_like(weight);
  const std::int64_t chunk = std::max<std::int64_t>(1, kLogitBytes / (4 * std::max<std::int64_t>(1, classes)));
  for (std::int64_t begin = 0; begin < rows; begin += chunk) {
    const std::int64_t n = std::min(chunk, rows - begin);
    const at::Tensor part = x.narrow(0, begin, n);
    const at::Tensor target = targets.narrow(0, begin, n).unsqueeze(1);
    // Each of the three becomes the next in place: logits, logarithms of the probabilities, gradient.
    at::Tensor kept = keep_logits ? out.logit_grad.narrow(0, begin, n) : at::Tensor();
    at::Tensor p = keep_logits && kept.scalar_type() == at::kFloat ? at::mm_out(kept, part, weight.t())
                                                                   : at::mm(part, weight.t()).to(at::kFloat);
    at::_log_softmax_out(p, p, 1, /*half_to_float=*/false);
    out.sum.sub_(p.gather(1, target).sum(), 1.0 - smoothing);
    if (smoothing > 0) out.sum.sub_(p.sum(), elsewhere);
    if (!input_grad && !weight_grad) continue;
    p.exp_();
    if (smoothing > 0) p.sub_(elsewhere);
    p.scatter_add_(1, target, at::full({1, 1}, smoothing - 1.0, p.options()).expand({n, 1}));
    const at::Tensor g = keep_logits ? kept : p.to(x.scalar_type());
    if (keep_logits && !kept.is_alias_of(p)) kept.copy_(p);
    if (input_grad) {
      at::Tensor into = out.input_grad.narrow(0, begin, n);
      at::mm_out(into, g, weight);
    }
    if (out.weight_grad.defined()) out.weight_grad.addmm_(g.t(), part);
  }
  return out;
}

class HeadLossFunction : public torch::autograd::Function<HeadLossFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& targets, double smoothing) {
    HeadLoss loss = head_loss(x, weight, targets, smoothing, x.requires_grad(), weight.requires_grad());
    ctx->save_for_backward({x, weight, loss.input_grad, loss.logit_grad, loss.weight_grad});
    return loss.sum;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &input_grad = saved[2], &logit_grad = saved[3],
                     &weight_grad = saved[4];
    const at::Tensor scale = grads[0].to(x.scalar_type());
    variable_list out(4);
    if (input_grad.defined()) out[0] = input_grad.mul(scale);
    if (logit_grad.defined()) out[1] = product_gradient(weight, logit_grad.t(), x.mul(scale));
    if (weight_grad.defined()) out[1] = weight_grad.mul(scale);
    return out;
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  if (!trains(weight)) return at::linear(x, weight, bias);  // keeps neither x nor a gradient of the weight
  return LinearFunction::apply(x, weight, bias, true);
}

at::Tensor linear_without_value(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  return LinearFunction::apply(x, weight, bias, false);
}

at::Tensor embedding(const at::Tensor& weight, const at::Tensor& ids) {
  return trains(weight) ? EmbeddingFunction::apply(weight, ids) : at::embedding(weight, ids);
}

at::Tensor linear_cross_entropy_sum(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& targets,
                                    double smoothing) {
  if (trains(weight) || (at::GradMode::is_enabled() && x.requires_grad())) {
    return HeadLossFunction::apply(x, weight, targets, smoothing);
  }
  return head_loss(x, weight, targets, smoothing, false, false).sum;
}

}  // namespace tessera::nn
