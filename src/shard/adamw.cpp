#include "tessera/shard/adamw.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>

#include <algorithm>

#include "tessera/core/error.hpp"

namespace tessera::shard {

AdamW::AdamW(Engine& engine, AdamWConfig config, std::vector<ParamGroup> groups,
             const std::function<std::size_t(const nn::ParamState&)>& group_of)
    : config_(config), groups_(std::move(groups)) {
  for (auto& slice : engine.trained()) {
    // Segments end at a multiple of the alignment, padding included (zeros that stay zeros), so that whether an element
    // falls into a vector or into the rest of a loop does not depend on the number of ranks.
    std::int64_t begin = 0;
    std::size_t current = 0;
    std::int64_t end = 0;
    auto flush = [&] {
      if (end == begin) return;
      auto part = [&](const at::Tensor& t) { return t.narrow(0, begin, end - begin); };
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

void AdamW::step(double grad_scale) {
  const at::NoGradGuard no_grad;
  ++steps_;
  // The fused kernel divides gradients by its grad_scale and advances the step count itself.
  auto number = [](double value, const at::Tensor& beside) {
    return at::full({}, value, at::TensorOptions().dtype(at::kFloat).device(beside.device()));
  };
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    std::vector<at::Tensor> masters, grads, avgs, avg_sqs, counts;
    for (const auto& s : segments_) {
      if (s.group != g) continue;
      masters.push_back(s.master);
      grads.push_back(s.grad.to(s.master.device()));  // a copy only where masters are offloaded
      avgs.push_back(s.exp_avg);
      avg_sqs.push_back(s.exp_avg_sq);
      counts.push_back(number(static_cast<double>(steps_), s.master));
    }
    if (masters.empty()) continue;
    const auto inverse = grad_scale == 1.0 ? std::optional<at::Tensor>() : number(1.0 / grad_scale, masters.front());
    at::_fused_adamw_(masters, grads, avgs, avg_sqs, {}, counts, groups_[g].lr, config_.beta1, config_.beta2,
                      groups_[g].weight_decay, config_.eps, /*amsgrad=*/false, /*maximize=*/false, inverse);
  }
}

double clip_scale(double norm, double max_norm) noexcept {
  return max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

}  // namespace tessera::shard
