#pragma once
/// Optimizer: AdamW, SGD or Lion on the slices of an engine: each rank updates what it owns, nothing is communicated.
/// Source: Loshchilov and Hutter, arXiv:1711.05101; torch.optim.AdamW (decoupled decay, bias correction, eps outside);
/// torch.optim.SGD (decay added to the gradient, momentum without damping); Chen et al., arXiv:2302.06675 (Lion,
/// algorithm 2; decoupled decay).
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/shard/engine.hpp"

namespace tessera::shard {

enum class OptimizerKind : std::uint8_t { adamw, sgd, lion };
/// "adamw", "sgd", "lion"; transformers' "adamw_torch", "adamw_torch_fused" and "lion_32bit" are the same. Throws
/// RequestError.
OptimizerKind optimizer_kind(std::string_view name);
std::string_view name_of(OptimizerKind kind) noexcept;

struct OptimizerConfig {
  double beta1 = 0.9;  ///< of AdamW and Lion
  double beta2 = 0.999;
  double eps = 1e-8;  ///< of AdamW
  OptimizerKind kind = OptimizerKind::adamw;
  double momentum = 0;  ///< of SGD
  /// fp32 states per trained element besides the master, for EngineConfig::moments.
  int moments() const noexcept;
};

/// Parameters that share a learning rate and a decay.
struct ParamGroup {
  std::string name;
  double lr = 0;
  double weight_decay = 0;
};

class Optimizer {
 public:
  /// `group_of` gives the index into `groups` of each trained parameter; asked once. The engine was made with
  /// config.moments() of them.
  Optimizer(Engine& engine, OptimizerConfig config, std::vector<ParamGroup> groups,
            const std::function<std::size_t(const nn::ParamState&)>& group_of);

  /// One update. `grad_scale` multiplies every gradient first (clipping). Learning rates are those in groups().
  void step(double grad_scale);

  const OptimizerConfig& config() const noexcept { return config_; }
  std::vector<ParamGroup>& groups() noexcept { return groups_; }
  std::int64_t steps() const noexcept { return steps_; }
  void set_steps(std::int64_t steps) noexcept { steps_ = steps; }  ///< after a checkpoint was read

 private:
  struct Segment {
    std::size_t group;
    at::Tensor master, grad, exp_avg, exp_avg_sq;  // fp32 views of one rank's slice; moments as far as there are any
  };
  void step_adamw(std::size_t group, double grad_scale);
  void step_plain(const Segment& segment, double grad_scale) const;  // SGD, Lion
  OptimizerConfig config_;
  std::vector<ParamGroup> groups_;
  std::vector<Segment> segments_;
  std::int64_t steps_ = 0;
};

/// min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ has it; 1 when max_norm is 0.
double clip_scale(double norm, double max_norm) noexcept;

}  // namespace tessera::shard
