#pragma once
/// AdamW on the slices of an engine: each rank updates what it owns, nothing is communicated.
/// Source: Loshchilov and Hutter, arXiv:1711.05101; torch.optim.AdamW (decoupled decay, bias correction, eps outside).
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tessera/shard/engine.hpp"

namespace tessera::shard {

struct AdamWConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
};

/// Parameters that share a learning rate and a decay.
struct ParamGroup {
  std::string name;
  double lr = 0;
  double weight_decay = 0;
};

class AdamW {
 public:
  /// `group_of` gives the index into `groups` of each trained parameter; asked once.
  AdamW(Engine& engine, AdamWConfig config, std::vector<ParamGroup> groups,
        const std::function<std::size_t(const nn::ParamState&)>& group_of);

  /// One update. `grad_scale` multiplies every gradient first (clipping). Learning rates are those in groups().
  void step(double grad_scale);

  std::vector<ParamGroup>& groups() noexcept { return groups_; }
  std::int64_t steps() const noexcept { return steps_; }
  void set_steps(std::int64_t steps) noexcept { steps_ = steps; }  ///< after a checkpoint was read

 private:
  struct Segment {
    std::size_t group;
    at::Tensor master, grad, exp_avg, exp_avg_sq;  // fp32 views of one rank's slice
  };
  AdamWConfig config_;
  std::vector<ParamGroup> groups_;
  std::vector<Segment> segments_;
  std::int64_t steps_ = 0;
};

/// min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ has it; 1 when max_norm is 0.
double clip_scale(double norm, double max_norm) noexcept;

}  // namespace tessera::shard
