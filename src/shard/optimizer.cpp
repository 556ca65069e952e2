#include "tessera/shard/optimizer.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>

#include <algorithm>

#include "tessera/core/error.hpp"

namespace tessera::shard {

OptimizerKind optimizer_kind(std::string_view name) {
  if (name == "adamw" || name == "adamw_torch" || name == "adamw_torch_fused") return OptimizerKind::adamw;
  if (name == "sgd") return OptimizerKind::sgd;
  if (name == "lion" || name == "lion_32bit") return OptimizerKind::lion;
  throw RequestError("--optim '{}' is unknown; choose adamw, sgd or lion", name);
}

std::string_view name_of(OptimizerKind kind) noexcept {
  return kind == OptimizerKind::adamw ? "adamw" : kind == OptimizerKind::sgd ? "sgd" : "lion";
}

int OptimizerConfig::moments() const noexcept {
  if (kind == OptimizerKind::adamw) return 2;
  return kind == OptimizerKind::lion || momentum > 0 ? 1 : 0;
}

Optimizer::Optimizer(Engine& engine, OptimizerConfig config, std::vector<ParamGroup> groups,
                     const std::function<std::size_t(const nn::ParamState&)>& group_of)
    : config_(config), groups_(std::move(groups)) {
  if (engine.config().moments != config.moments()) {
    throw RunError("shard: {} keeps {} states, the engine was made for {}", name_of(config.kind), config.moments(),
                   engine.config().moments);
  }
  for (auto& slice : engine.trained()) {
    // Segments end at a multiple of the alignment, padding included (zeros that stay zeros), so that whether an element
    // falls into a vector or into the rest of a loop does not depend on the number of ranks.
    std::int64_t begin = 0;
    std::size_t current = 0;
    std::int64_t end = 0;
    auto flush = [&] {
      if (end == begin) return;
      auto part = [&](const at::Tensor& t) { return t.defined() ? t.narrow(0, begin, end - begin) : t; };
      segments_.push_back({current, part(slice.master), part(slice.grad), part(slice.exp_avg), part(slice.exp_avg_sq)});
    };
    for (const auto& piece : slice.pieces) {
      const auto group = group_of(*slice.layout->tensors()[piece.tensor].param);
      if (group >= groups_.size())
        throw RunError("shard: parameter group {} of {} does not exist", group, groups_.size());
      if (end == begin || group != current) {  // neighbours of one group are updated together, padding between them too
        flush();
        begin = piece.slice_begin;
        current = group;
      }
      end = (piece.slice_begin + piece.count + GroupLayout::kAlign - 1) / GroupLayout::kAlign * GroupLayout::kAlign;
    }
    flush();
  }
}

void Optimizer::step(double grad_scale) {
  const at::NoGradGuard no_grad;
  ++steps_;
  if (config_.kind == OptimizerKind::adamw) {
    for (std::size_t g = 0; g < groups_.size(); ++g) step_adamw(g, grad_scale);
    return;
  }
  for (const auto& s : segments_) step_plain(s, grad_scale);
}

void Optimizer::step_adamw(std::size_t group, double grad_scale) {
  // The fused kernel divides gradients by its grad_scale and advances the step count itself.
  auto number = [](double value, const at::Tensor& beside) {
    return at::full({}, value, at::TensorOptions().dtype(at::kFloat).device(beside.device()));
  };
  std::vector<at::Tensor> masters, grads, avgs, avg_sqs, counts;
  for (const auto& s : segments_) {
    if (s.group != group) continue;
    masters.push_back(s.master);
    grads.push_back(s.grad.to(s.master.device()));  // a copy only where masters are offloaded
    avgs.push_back(s.exp_avg);
    avg_sqs.push_back(s.exp_avg_sq);
    counts.push_back(number(static_cast<double>(steps_), s.master));
  }
  if (masters.empty()) return;
  const auto inverse = grad_scale == 1.0 ? std::optional<at::Tensor>() : number(1.0 / grad_scale, masters.front());
  at::_fused_adamw_(masters, grads, avgs, avg_sqs, {}, counts, groups_[group].lr, config_.beta1, config_.beta2,
                    groups_[group].weight_decay, config_.eps, /*amsgrad=*/false, /*maximize=*/false, inverse);
}

void Optimizer::step_plain(const Segment& s, double grad_scale) const {
  const auto& group = groups_[s.group];
  at::Tensor update = s.grad.to(s.master.device()).mul(grad_scale);
  if (config_.kind == OptimizerKind::sgd) {
    if (group.weight_decay != 0) update.add_(s.master, group.weight_decay);
    if (s.exp_avg.defined()) update = s.exp_avg.mul_(config_.momentum).add_(update);
    s.master.add_(update, -group.lr);
    return;
  }
  const at::Tensor direction = s.exp_avg.mul(config_.beta1).add_(update, 1.0 - config_.beta1).sign_();
  s.master.mul_(1.0 - group.lr * group.weight_decay).add_(direction, -group.lr);
  s.exp_avg.mul_(config_.beta2).add_(update, 1.0 - config_.beta2);
}

double clip_scale(double norm, double max_norm) noexcept {
  return max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

}  // namespace tessera::shard
