// Operations on a frozen matrix whose rows are visited: embedding, logits, cross-entropy.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "tessera/core/error.hpp"
#include "tessera/nn/upload.hpp"
#include "tessera/nn/weighted.hpp"

namespace tessera::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kLogitBytes = std::int64_t{32} << 20;  // of a chunk of positions, in fp32

/// Which of `ids` lie in [first, first + count), and where; those outside point at row 0.
struct Inside {
  at::Tensor mask, local;
};
Inside inside(const at::Tensor& ids, std::int64_t first, std::int64_t count) {
  const at::Tensor shifted = ids.sub(first);
  at::Tensor mask = shifted.ge(0).logical_and_(shifted.lt(count));
  return {mask, at::where(mask, shifted, 0)};
}

/// Loss and gradient of n positions over the classes seen so far. With top the largest logit of a position and s its
/// logits: mass = sum exp(s - top), pull = sum exp(s - top) * row; the gradient is pull / mass less the target's row.
/// With smoothed targets, less what they hold of the target's row and of the mean row, whose logit is the mean logit.
class RunningLoss {
 public:
  RunningLoss(const at::Tensor& x, const at::Tensor& targets, double smoothing, bool input_grad)
      : x_(x), targets_(targets), smoothing_(smoothing) {
    const std::int64_t n = x.size(0);
    const auto wide = x.options().dtype(at::kFloat).requires_grad(false);
    top_ = at::full({n}, -std::numeric_limits<float>::infinity(), wide);
    mass_ = at::zeros({n}, wide);
    target_logit_ = at::zeros({n}, wide);
    if (smoothing > 0) row_sum_ = at::zeros({x.size(1)}, wide);
    if (!input_grad) return;
    pull_ = at::zeros(x.sizes(), wide);
    target_row_ = at::zeros(x.sizes(), x.options().requires_grad(false));
  }

  void add(const at::Tensor& rows, std::int64_t first) {
    const std::int64_t n = x_.size(0);
    const std::int64_t step = std::max<std::int64_t>(1, kLogitBytes / (4 * rows.size(0)));
    classes_ += rows.size(0);
    if (row_sum_.defined()) row_sum_.add_(rows.sum({0}, false, at::kFloat));
    for (std::int64_t at = 0; at < n; at += step) add(rows, first, at, std::min(step, n - at));
  }

  at::Tensor sum() const {
    const at::Tensor loss = top_.add(mass_.log()).sub_(target_logit_, 1.0 - smoothing_);
    if (row_sum_.defined()) loss.sub_(at::mv(x_.to(at::kFloat), row_sum_), elsewhere());
    return loss.sum();
  }
  at::Tensor input_grad() const {
    if (!pull_.defined()) return {};
    const at::Tensor gradient = pull_.div(mass_.unsqueeze(1)).sub_(target_row_, 1.0 - smoothing_);
    if (row_sum_.defined()) gradient.sub_(row_sum_, elsewhere());
    return gradient.to(x_.scalar_type());
  }

 private:
  double elsewhere() const { return smoothing_ / static_cast<double>(std::max<std::int64_t>(1, classes_)); }

  void add(const at::Tensor& rows, std::int64_t first, std::int64_t at, std::int64_t count) {
    const at::Tensor top = top_.narrow(0, at, count), mass = mass_.narrow(0, at, count);
    const Inside target = inside(targets_.narrow(0, at, count), first, rows.size(0));
    at::Tensor p = at::mm(x_.narrow(0, at, count), rows.t()).to(at::kFloat);
    const at::Tensor logit = target_logit_.narrow(0, at, count);
    logit.copy_(at::where(target.mask, p.gather(1, target.local.unsqueeze(1)).squeeze(1), logit));
    const at::Tensor higher = at::maximum(top, p.amax({1}));
    const at::Tensor shrink = top.sub(higher).exp_();
    p.sub_(higher.unsqueeze(1)).exp_();
    mass.mul_(shrink).add_(p.sum({1}));
    top.copy_(higher);
    if (!pull_.defined()) return;
    const at::Tensor pull = pull_.narrow(0, at, count), row = target_row_.narrow(0, at, count);
    pull.mul_(shrink.unsqueeze(1));
    if (rows.scalar_type() == at::kFloat) {
      pull.addmm_(p, rows);
    } else {
      pull.add_(at::mm(p.to(rows.scalar_type()), rows));
    }
    row.copy_(at::where(target.mask.unsqueeze(1), rows.index_select(0, target.local), row));
  }

  const at::Tensor x_, targets_;
  at::Tensor top_, mass_, target_logit_;  // fp32 [n]
  at::Tensor pull_;                       // fp32 [n, D]
  at::Tensor target_row_;                 // [n, D]
  double smoothing_;
  at::Tensor row_sum_;  // fp32 [D], of smoothed targets
  std::int64_t classes_ = 0;
};

/// A sum whose gradient is known already.
class KnownGradient : public torch::autograd::Function<KnownGradient> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& /*x*/, const at::Tensor& sum,
                            const at::Tensor& input_grad) {
    ctx->save_for_backward({input_grad});
    return sum.clone();
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor input_grad = ctx->get_saved_variables()[0];
    return {input_grad.mul(grads[0].to(input_grad.scalar_type())), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor embedding_by_rows(const ParamState& weight, const at::Tensor& ids) {
  if (!weight.by_rows()) return at::embedding(weight.value(), upload(ids, weight.value().device()));
  const at::NoGradGuard no_grad;
  at::Tensor flat = ids.reshape({-1});
  at::Tensor out;
  weight.visit_rows([&](const at::Tensor& rows, std::int64_t first) {
    if (!out.defined()) {
      flat = upload(flat, rows.device());
      out = at::zeros({flat.size(0), rows.size(1)}, rows.options());
    }
    const Inside here = inside(flat, first, rows.size(0));
    out = at::where(here.mask.unsqueeze(1), rows.index_select(0, here.local), out);
  });
  auto shape = ids.sizes().vec();
  shape.push_back(out.size(1));
  return out.view(shape);
}

at::Tensor linear_by_rows(const at::Tensor& x, const ParamState& weight) {
  if (!weight.by_rows()) return at::linear(x, weight.value());
  if (at::GradMode::is_enabled() && x.requires_grad()) {
    throw RunError("nn: a gradient of all logits is asked for, but '{}' is never whole on a rank; keep it resident",
                   weight.name);
  }
  std::vector<at::Tensor> parts;
  weight.visit_rows([&](const at::Tensor& rows, std::int64_t) { parts.push_back(at::linear(x, rows)); });
  return parts.size() == 1 ? parts[0] : at::cat(parts, -1);
}

at::Tensor linear_cross_entropy_sum_by_rows(const at::Tensor& x, const ParamState& weight, const at::Tensor& targets,
                                            double smoothing) {
  const bool input_grad = at::GradMode::is_enabled() && x.requires_grad();
  at::Tensor sum, gradient;
  {
    const at::NoGradGuard no_grad;
    RunningLoss loss(x, targets, smoothing, input_grad);
    weight.visit_rows([&](const at::Tensor& rows, std::int64_t first) {
      for (std::int64_t at = 0; at < rows.size(0); at += kRowsAtOnce) {
        loss.add(rows.narrow(0, at, std::min(kRowsAtOnce, rows.size(0) - at)), first + at);
      }
    });
    sum = loss.sum();
    gradient = loss.input_grad();
  }
  return input_grad ? KnownGradient::apply(x, sum, gradient) : sum;
}

}  // namespace tessera::nn
