#include "tessera/shard/optimizer.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/full.h>

#include <algorithm>

#include "shard/pieces_in_cache.hpp"
#include "tessera/core/error.hpp"

namespace tessera::shard {

namespace {

std::int64_t aligned(std::int64_t n) {
  return (n + GroupLayout::kAlign - 1) / GroupLayout::kAlign * GroupLayout::kAlign;
}

at::Tensor number(double value, const at::Tensor& beside) {
  return at::full({}, value, at::TensorOptions().dtype(at::kFloat).device(beside.device()));
}

}  // namespace

OptimizerKind optimizer_kind(std::string_view name) {
  if (name == "adamw" || name == "adamw_torch" || name == "adamw_torch_fused") return OptimizerKind::adamw;
  if (name == "adamw_8bit" || name == "adamw_bnb_8bit") return OptimizerKind::adamw_8bit;
  if (name == "sgd") return OptimizerKind::sgd;
  if (name == "lion" || name == "lion_32bit") return OptimizerKind::lion;
  throw RequestError("--optim '{}' is unknown; choose adamw, adamw_8bit, sgd or lion", name);
}

std::string_view name_of(OptimizerKind kind) noexcept {
  switch (kind) {
    case OptimizerKind::adamw:
      return "adamw";
    case OptimizerKind::adamw_8bit:
      return "adamw_8bit";
    case OptimizerKind::sgd:
      return "sgd";
    case OptimizerKind::lion:
      break;
  }
  return "lion";
}

int OptimizerConfig::moments() const noexcept {
  if (kind == OptimizerKind::adamw || kind == OptimizerKind::adamw_8bit) return 2;
  return kind == OptimizerKind::lion || momentum > 0 ? 1 : 0;
}

Optimizer::Optimizer(Engine& engine, OptimizerConfig config, std::vector<ParamGroup> groups,
                     const std::function<std::size_t(const nn::ParamState&)>& group_of)
    : config_(config), groups_(std::move(groups)), engine_(engine) {
  if (engine.config().moments != config.moments() || engine.config().moments_8bit != config.moments_8bit()) {
    throw RunError("shard: {} keeps {} states, the engine was made for {}", name_of(config.kind), config.moments(),
                   engine.config().moments);
  }
  if (engine.config().average != (config.ema_decay > 0))
    throw RunError("shard: an average of the weights needs both an engine made for it and a decay");
  for (auto& slice : engine.trained())
    config_.moments_8bit() ? add_pieces(slice, group_of) : add_segments(slice, group_of);
}

std::size_t Optimizer::group_of_piece(const TrainedSlice& slice, const Piece& piece,
                                      const std::function<std::size_t(const nn::ParamState&)>& group_of) const {
  const auto group = group_of(*slice.layout->tensors()[piece.tensor].param);
  if (group >= groups_.size()) throw RunError("shard: parameter group {} of {} does not exist", group, groups_.size());
  return group;
}

// Segments end at a multiple of the alignment, padding included (zeros that stay zeros), so that whether an element
// falls into a vector or into the rest of a loop does not depend on the number of ranks. Neighbours of one group are
// updated together, padding between them too.
void Optimizer::add_segments(const TrainedSlice& slice,
                             const std::function<std::size_t(const nn::ParamState&)>& group_of) {
  std::int64_t begin = 0;
  std::size_t current = 0;
  std::int64_t end = 0;
  auto flush = [&] {
    if (end == begin) return;
    auto part = [&](const at::Tensor& t) { return t.defined() ? t.narrow(0, begin, end - begin) : t; };
    segments_.push_back({current, part(slice.master), part(slice.grad), part(slice.exp_avg), part(slice.exp_avg_sq)});
  };
  for (const auto& piece : slice.pieces) {
    const auto group = group_of_piece(slice, piece, group_of);
    if (end == begin || group != current) {
      flush();
      begin = piece.slice_begin;
      current = group;
    }
    end = aligned(piece.slice_begin + piece.count);
  }
  flush();
}

// Each piece for itself: blocks of codes count from the start of a tensor.
void Optimizer::add_pieces(const TrainedSlice& slice,
                           const std::function<std::size_t(const nn::ParamState&)>& group_of) {
  for (std::size_t i = 0; i < slice.pieces.size(); ++i) {
    const auto& piece = slice.pieces[i];
    const auto group = group_of_piece(slice, piece, group_of);
    if (const auto at = slice.exact_at[i]; at >= 0) {
      const auto count = aligned(piece.count);
      segments_.push_back({group, slice.master.narrow(0, piece.slice_begin, count),
                           slice.grad.narrow(0, piece.slice_begin, count), slice.exp_avg.narrow(0, at, count),
                           slice.exp_avg_sq.narrow(0, at, count)});
      continue;
    }
    auto coded = [&](const CodedMoment& moment) {
      const auto blocks = (piece.count + kMomentBlock - 1) / kMomentBlock;
      return CodedMoment{moment.codes.narrow(0, piece.slice_begin, piece.count),
                         moment.scales.narrow(0, piece.slice_begin / kMomentBlock, blocks)};
    };
    coded_.push_back({group, slice.master.narrow(0, piece.slice_begin, piece.count),
                      slice.grad.narrow(0, piece.slice_begin, piece.count), coded(slice.coded_avg),
                      coded(slice.coded_avg_sq)});
  }
}

void Optimizer::step(double grad_scale) {
  const at::NoGradGuard no_grad;
  ++steps_;
  if (config_.max_grad_value > 0) {
    for (auto& slice : engine_.trained())
      slice.grad.mul_(grad_scale).clamp_(-config_.max_grad_value, config_.max_grad_value);
    grad_scale = 1.0;
  }
  if (config_.kind == OptimizerKind::adamw || config_.moments_8bit()) {
    for (std::size_t g = 0; g < groups_.size(); ++g) step_adamw(g, grad_scale);
    for (const auto& s : coded_) step_coded(s, grad_scale);
  } else {
    for (const auto& s : segments_)
      config_.kind == OptimizerKind::sgd ? step_sgd(s, grad_scale) : step_lion(s, grad_scale);
  }
  if (config_.ema_decay > 0) update_averages();
}

void Optimizer::update_averages() const {
  for (auto& slice : engine_.trained()) {
    if (steps_ == 1) {
      slice.average.copy_(slice.master);
    } else {
      slice.average.lerp_(slice.master, 1.0 - config_.ema_decay);
    }
  }
}

void Optimizer::step_adamw(std::size_t group, double grad_scale) {
  // The fused kernel divides gradients by its grad_scale and advances the step count itself.
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

void Optimizer::step_coded(const CodedSegment& s, double grad_scale) const {
  const auto& group = groups_[s.group];
  adamw_coded({group.lr, config_.beta1, config_.beta2, config_.eps, group.weight_decay, steps_, grad_scale}, s.master,
              s.grad.to(s.master.device()), s.exp_avg, s.exp_avg_sq);
}

void Optimizer::step_sgd(const Segment& s, double grad_scale) const {
  const auto& group = groups_[s.group];
  std::vector<at::Tensor> master{s.master}, grad{s.grad.to(s.master.device())}, momentum;
  if (s.exp_avg.defined()) momentum.push_back(s.exp_avg);
  const auto inverse = grad_scale == 1.0 ? std::optional<at::Tensor>() : number(1.0 / grad_scale, s.master);
  at::_fused_sgd_(master, grad, momentum, group.weight_decay, config_.momentum, group.lr, /*dampening=*/0.0,
                  /*nesterov=*/false, /*maximize=*/false, /*is_first_step=*/false, inverse);
}

void Optimizer::step_lion(const Segment& s, double grad_scale) const {
  const auto& group = groups_[s.group];
  const at::Tensor grad = s.grad.to(s.master.device());
  const auto update = [&](std::int64_t begin, std::int64_t count) {
    const at::Tensor master = s.master.narrow(0, begin, count), average = s.exp_avg.narrow(0, begin, count);
    const at::Tensor scaled = grad.narrow(0, begin, count).mul(grad_scale);
    const at::Tensor direction = average.mul(config_.beta1).add_(scaled, 1.0 - config_.beta1).sign_();
    master.mul_(1.0 - group.lr * group.weight_decay).add_(direction, -group.lr);
    average.mul_(config_.beta2).add_(scaled, 1.0 - config_.beta2);
  };
  s.master.is_cpu() ? for_pieces_in_cache(s.master.numel(), update) : update(0, s.master.numel());
}

namespace {

void exchange_averages(Engine& engine) {
  const at::NoGradGuard no_grad;
  constexpr std::int64_t kAtOnce = std::int64_t{1} << 20;
  for (auto& slice : engine.trained()) {
    for (std::int64_t begin = 0; begin < slice.master.numel(); begin += kAtOnce) {
      const auto count = std::min(kAtOnce, slice.master.numel() - begin);
      const at::Tensor kept = slice.master.narrow(0, begin, count).clone();
      slice.master.narrow(0, begin, count).copy_(slice.average.narrow(0, begin, count));
      slice.average.narrow(0, begin, count).copy_(kept);
    }
  }
}

}  // namespace

AveragedWeights::AveragedWeights(Engine& engine) : engine_(engine) {
  if (!engine.config().average) throw RunError("shard: the engine keeps no average of the weights");
  exchange_averages(engine_);
}

AveragedWeights::~AveragedWeights() {
  exchange_averages(engine_);
}

std::unique_ptr<AveragedWeights> averages_of(Engine& engine, const Optimizer& optimizer, bool wanted) {
  return wanted && optimizer.steps() > 0 ? std::make_unique<AveragedWeights>(engine) : nullptr;
}

double clip_scale(double norm, double max_norm) noexcept {
  return max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

}  // namespace tessera::shard
