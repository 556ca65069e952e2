#pragma once
/// Optimizer: AdamW, also with 8-bit moments (moments8.hpp), SGD or Lion on the slices of an engine: each rank updates
/// what it owns, nothing is communicated. Source: Loshchilov and Hutter, arXiv:1711.05101; torch.optim.AdamW (decoupled
/// decay, bias correction, eps outside); torch.optim.SGD (decay added to the gradient, momentum without damping); Chen
/// et al., arXiv:2302.06675 (Lion, algorithm 2; decoupled decay); torch.nn.utils.clip_grad_value_;
/// torch.optim.swa_utils (get_ema_multi_avg_fn).
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/shard/engine.hpp"

namespace tessera::shard {

enum class OptimizerKind : std::uint8_t { adamw, adamw_8bit, sgd, lion };
/// "adamw", "adamw_8bit", "sgd", "lion"; transformers' "adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit" and
/// "lion_32bit" are the same. Throws RequestError.
OptimizerKind optimizer_kind(std::string_view name);
std::string_view name_of(OptimizerKind kind) noexcept;

struct OptimizerConfig {
  double beta1 = 0.9;  ///< of AdamW and Lion
  double beta2 = 0.999;
  double eps = 1e-8;  ///< of AdamW
  OptimizerKind kind = OptimizerKind::adamw;
  double momentum = 0;        ///< of SGD
  double max_grad_value = 0;  ///< each element of a scaled gradient is cut off at this size; 0: none
  /// Of the running average of the masters (EngineConfig::average): average = decay * average + (1 - decay) * master
  /// after each update, the first of which starts it.
  double ema_decay = 0;
  /// States per trained element besides the master, for EngineConfig::moments and moments_8bit.
  int moments() const noexcept;
  bool moments_8bit() const noexcept { return kind == OptimizerKind::adamw_8bit; }
};

/// Parameters that share a learning rate and a decay.
struct ParamGroup {
  std::string name;
  double lr = 0;
  double weight_decay = 0;
  bool decays = true;  ///< false: what has no decay whatever it is set to: biases and norms of some recipes
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
  struct CodedSegment {
    std::size_t group;
    at::Tensor master, grad;
    CodedMoment exp_avg, exp_avg_sq;
  };
  std::size_t group_of_piece(const TrainedSlice& slice, const Piece& piece,
                             const std::function<std::size_t(const nn::ParamState&)>& group_of) const;
  void add_segments(const TrainedSlice& slice, const std::function<std::size_t(const nn::ParamState&)>& group_of);
  void add_pieces(const TrainedSlice& slice, const std::function<std::size_t(const nn::ParamState&)>& group_of);
  void step_adamw(std::size_t group, double grad_scale);
  void step_coded(const CodedSegment& segment, double grad_scale) const;
  void step_sgd(const Segment& segment, double grad_scale) const;
  void step_lion(const Segment& segment, double grad_scale) const;
  void update_averages() const;
  OptimizerConfig config_;
  std::vector<ParamGroup> groups_;
  Engine& engine_;
  std::vector<Segment> segments_;
  std::vector<CodedSegment> coded_;
  std::int64_t steps_ = 0;
};

/// While it lives the averages stand in the place of the masters and the masters in theirs: for a validation or an
/// export of averaged weights. Between steps; each rank for itself, and all of them, or what is gathered would be
/// mixed.
class AveragedWeights {
 public:
  explicit AveragedWeights(Engine& engine);
  ~AveragedWeights();
  AveragedWeights(const AveragedWeights&) = delete;
  AveragedWeights& operator=(const AveragedWeights&) = delete;

 private:
  Engine& engine_;
};

/// The averages for the weights where they are `wanted` and an update has started them; otherwise nothing.
std::unique_ptr<AveragedWeights> averages_of(Engine& engine, const Optimizer& optimizer, bool wanted);

/// min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ has it; 1 when max_norm is 0.
double clip_scale(double norm, double max_norm) noexcept;

}  // namespace tessera::shard
