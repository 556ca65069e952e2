#include "tessera/adapt/adalora.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/kthvalue.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>

#include <cmath>

#include "tessera/core/error.hpp"

namespace tessera::adapt {
namespace {

/// rows rows^T - I
at::Tensor excess(const at::Tensor& rows) {
  return at::matmul(rows, rows.t()) - at::eye(rows.size(0), rows.options().requires_grad(false));
}

}  // namespace

void AdaLoraConfig::check() const {
  if (init_r < 1) throw RequestError("adalora: init_r {} is below 1", init_r);
  if (target_r < 1 || target_r > init_r)
    throw RequestError("adalora: target_r {} is not between 1 and init_r, which is {}", target_r, init_r);
  if (tinit < 0 || tfinal < 0) throw RequestError("adalora: tinit {} or tfinal {} is below 0", tinit, tfinal);
  if (delta_t < 1) throw RequestError("adalora: deltaT {} is below 1", delta_t);
  for (const double beta : {beta1, beta2}) {
    if (!(beta > 0 && beta < 1)) throw RequestError("adalora: beta {} is not between 0 and 1", beta);
  }
  if (!(orth_reg_weight > 0)) throw RequestError("adalora: orth_reg_weight {} is not above 0", orth_reg_weight);
  if (total_step <= 0) throw RequestError("adalora: total_step {} is not above 0", total_step);
  if (tinit >= total_step - tfinal) {
    throw RequestError(
        "adalora: tinit {} and tfinal {} leave none of the {} steps in which the budget shrinks; lower them or raise "
        "total_step",
        tinit, tfinal, total_step);
  }
}

RankBudget rank_budget(const AdaLoraConfig& config, std::int64_t initial, std::int64_t layers, std::int64_t step) {
  const std::int64_t target = config.target_r * layers;
  const std::int64_t last = config.total_step - config.tfinal;
  if (step <= config.tinit) return {initial, false};
  if (step > last) return {target, true};
  const double left = 1.0 - static_cast<double>(step - config.tinit) / static_cast<double>(last - config.tinit);
  const double triplets = static_cast<double>(initial - target) * std::pow(left, 3) + static_cast<double>(target);
  return {static_cast<std::int64_t>(triplets), step % config.delta_t == 0};
}

void update_importance(const AdaLoraConfig& config, const at::Tensor& p, const at::Tensor& gradient,
                       at::Tensor& sensitivity, at::Tensor& uncertainty) {
  const at::NoGradGuard no_grad;
  const at::Tensor now = (p * gradient).abs();
  sensitivity.mul_(config.beta1).add_(now * (1 - config.beta1));
  uncertainty.mul_(config.beta2).add_((now - sensitivity).abs() * (1 - config.beta2));
}

at::Tensor triplet_scores(const at::Tensor& a, const at::Tensor& e, const at::Tensor& b) {
  return e.flatten() + (a.mean(1) + b.mean(0));
}

std::vector<std::vector<bool>> allocate_triplets(const std::vector<at::Tensor>& scores, std::int64_t budget) {
  const at::Tensor all = at::cat(scores);
  const std::int64_t out = all.numel() - budget;
  // Below every score where nothing has to go, a case for which PEFT has no answer.
  const float threshold = out > 0 ? std::get<0>(at::kthvalue(all, out)).item<float>() : -1.0F;
  std::vector<std::vector<bool>> kept;
  for (const at::Tensor& layer : scores) {
    const at::Tensor host = layer.to(at::kCPU, at::kFloat).contiguous();
    const auto* values = host.const_data_ptr<float>();
    auto& own = kept.emplace_back();
    for (std::int64_t i = 0; i < host.numel(); ++i) own.push_back(values[i] > threshold);
  }
  return kept;
}

at::Tensor orthogonality(const at::Tensor& rows) {
  return at::linalg_vector_norm(excess(rows), 2);
}

at::Tensor orthogonality_gradient(const at::Tensor& rows) {
  const at::NoGradGuard no_grad;
  const at::Tensor over = excess(rows);
  const double length = at::linalg_vector_norm(over, 2).item<double>();
  return length > 0 ? at::matmul(over, rows).mul_(2.0 / length) : at::matmul(over, rows);
}

}  // namespace tessera::adapt
