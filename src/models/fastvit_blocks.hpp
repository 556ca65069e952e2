#pragma once
// FastViT's blocks: what a unit of it computes.
#include "fastvit_conv.hpp"
#include "tessera/nn/layers.hpp"

namespace tessera::models {

/// What the blocks of a tower share.
using ConvList = std::vector<const RepConv*>;

/// Three convolutions, GELU after each; a quarter of the size.
class FastVitStem {
 public:
  FastVitStem(const nn::Scope& scope, const FastVitConfig& config);
  at::Tensor operator()(const at::Tensor& pixels) const;
  void list(ConvList& convs) const;

 private:
  std::vector<RepConv> convs_;
};

/// A 7x7 convolution of stride 2 and a 1x1 one, GELU after each.
class FastVitDownsample {
 public:
  FastVitDownsample(const nn::Scope& scope, std::int64_t in, std::int64_t out, bool branches);
  at::Tensor operator()(const at::Tensor& x) const;
  void list(ConvList& convs) const { convs.insert(convs.end(), {&large_, &point_}); }

 private:
  RepConv large_, point_;
};

/// A 7x7 convolution by channel with a norm, then two layers over the channels of a pixel.
class ConvFeedForward {
 public:
  ConvFeedForward() = default;
  ConvFeedForward(const nn::Scope& scope, std::int64_t channels, std::int64_t inner);
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  RepConv conv_;
  nn::Conv2d fc1_, fc2_;
};

/// A block of either kind.
class FastVitBlock {
 public:
  FastVitBlock(const nn::Scope& scope, const FastVitStage& stage, bool branches);
  at::Tensor operator()(const at::Tensor& x, const nn::ForwardContext& ctx) const;
  void list(ConvList& convs) const {
    if (mixer_ == TokenMixer::convolution) convs.push_back(&conv_);
  }

 private:
  at::Tensor attend(const at::Tensor& x, const nn::ForwardContext& ctx) const;

  TokenMixer mixer_;
  RepConv conv_;           // convolution
  nn::LayerNorm2d norm_;   // attention
  nn::Linear qkv_, proj_;  // attention
  nn::Param scale1_, scale2_;
  ConvFeedForward feed_forward_;
};

/// More channels for the features: a 3x3 convolution, squeeze-and-excite, GELU.
class FastVitExpansion {
 public:
  FastVitExpansion(const nn::Scope& scope, const FastVitConfig& config);
  at::Tensor operator()(const at::Tensor& x) const;
  void list(ConvList& convs) const { convs.push_back(&conv_); }

 private:
  RepConv conv_;
  nn::Conv2d reduce_, expand_;
};

}  // namespace tessera::models
