#pragma once
// FastViT's convolutions, each in two forms: one kernel, or branches that add up to it.
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/models/fastvit.hpp"
#include "tessera/nn/param.hpp"

namespace tessera::models {

/// Padded by half the kernel on every side.
struct ConvGeometry {
  std::int64_t in = 0;
  std::int64_t out = 0;
  std::int64_t kernel = 1;
  std::int64_t stride = 1;
  std::int64_t groups = 1;
};

/// y = x * scale + shift by running statistics.
class FrozenBatchNorm {
 public:
  FrozenBatchNorm(const nn::Scope& scope, std::string_view name, std::int64_t channels);
  std::pair<at::Tensor, at::Tensor> scale_and_shift() const;  ///< [channels] each
  const std::vector<nn::Param>& params() const { return params_; }

 private:
  std::vector<nn::Param> params_;  ///< weight, bias, running_mean, running_var
};

class RepConv {
 public:
  RepConv() = default;
  /// A k x k convolution with a batch norm; beside it, when k > 1 and asked for, a 1x1 one; beside them, where input
  /// and output have one shape, the input itself through a batch norm.
  static RepConv mobile_one(const nn::Scope& scope, ConvGeometry geometry, bool branches, bool scale_branch);
  /// A 7x7 and a 3x3 convolution, each with a batch norm.
  static RepConv large_kernel(const nn::Scope& scope, ConvGeometry geometry, bool branches);
  /// x + layer_scale * (mobile_one(x) - batch_norm(x)).
  static RepConv mixer(const nn::Scope& scope, std::int64_t channels, bool branches);
  /// x + conv(x), 7x7 by channel.
  static RepConv position(const nn::Scope& scope, std::int64_t channels, bool branches);
  /// A 7x7 convolution by channel with a batch norm, which published weights keep apart as well.
  static RepConv conv_and_norm(const nn::Scope& scope, std::int64_t channels);

  at::Tensor operator()(const at::Tensor& x) const;
  /// Kernel and bias, in the weights' type in the folded form, else at least in fp32.
  std::pair<at::Tensor, at::Tensor> kernel() const;
  at::ScalarType type() const;  ///< the weights'
  /// Nothing where folding has nothing to do.
  std::optional<FastVitFold> fold() const;

 private:
  struct Branch {
    nn::Param weight;  ///< null: the input itself
    nn::Param bias;    ///< null: the norm has it
    std::optional<FrozenBatchNorm> norm;
    double sign = 1;
  };
  explicit RepConv(ConvGeometry geometry) : geometry_(geometry) {}
  void set_folded(const nn::Scope& scope, std::string_view name);
  void add_mobile_one(const nn::Scope& scope, bool scale_branch);
  void add_conv_norm(const nn::Scope& scope, std::string_view name, std::int64_t kernel);
  at::Tensor identity(const at::TensorOptions& options) const;

  ConvGeometry geometry_;
  std::string folded_name_;  ///< empty: stays apart
  nn::Param weight_, bias_;  ///< the folded form's
  std::vector<Branch> branches_;
  bool residual_ = false;
  nn::Param layer_scale_;
};

}  // namespace tessera::models
