#include "fastvit_blocks.hpp"

#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>

#include "tessera/nn/functional.hpp"

namespace tessera::models {
namespace {

constexpr double kNormEps = 1e-5;

nn::Init small() {
  return nn::Init::normal(0.02);
}

/// Starts near nothing, so that a new block changes little.
nn::Param layer_scale(const nn::Scope& scope, std::string_view name, std::int64_t channels) {
  return scope.param(name, {channels, 1, 1}, nn::Init::normal(1e-5));
}

}  // namespace

FastVitStem::FastVitStem(const nn::Scope& scope, const FastVitConfig& config) {
  const std::int64_t width = config.stages.front().width;
  const ConvGeometry geometries[] = {{.in = 3, .out = width, .kernel = 3, .stride = 2, .groups = 1},
                                     {.in = width, .out = width, .kernel = 3, .stride = 2, .groups = width},
                                     {.in = width, .out = width, .kernel = 1, .stride = 1, .groups = 1}};
  for (const ConvGeometry& geometry : geometries) {
    convs_.push_back(RepConv::mobile_one(scope.child(std::to_string(convs_.size())), geometry, config.branches,
                                         config.stem_scale_branch));
  }
}

at::Tensor FastVitStem::operator()(const at::Tensor& pixels) const {
  at::Tensor x = pixels.to(convs_.front().type());
  for (const RepConv& conv : convs_) x = at::gelu(conv(x));
  return x;
}

void FastVitStem::list(ConvList& convs) const {
  for (const RepConv& conv : convs_) convs.push_back(&conv);
}

FastVitDownsample::FastVitDownsample(const nn::Scope& scope, std::int64_t in, std::int64_t out, bool branches)
    : large_(RepConv::large_kernel(scope.child("proj.0"),
                                   {.in = in, .out = out, .kernel = 7, .stride = 2, .groups = in}, branches)),
      point_(RepConv::mobile_one(scope.child("proj.1"), {.in = out, .out = out, .kernel = 1, .stride = 1, .groups = 1},
                                 branches, true)) {}

at::Tensor FastVitDownsample::operator()(const at::Tensor& x) const {
  return at::gelu(point_(at::gelu(large_(x))));
}

ConvFeedForward::ConvFeedForward(const nn::Scope& scope, std::int64_t channels, std::int64_t inner)
    : conv_(RepConv::conv_and_norm(scope, channels)),
      fc1_(scope, "fc1", {.in = channels, .out = inner}, small()),
      fc2_(scope, "fc2", {.in = inner, .out = channels}, small()) {}

at::Tensor ConvFeedForward::operator()(const at::Tensor& x) const {
  return fc2_(at::gelu(fc1_(conv_(x))));
}

FastVitBlock::FastVitBlock(const nn::Scope& scope, const FastVitStage& stage, bool branches) : mixer_(stage.mixer) {
  const std::int64_t c = stage.width;
  const nn::Scope mixer = scope.child("token_mixer");
  if (mixer_ == TokenMixer::convolution) {
    conv_ = RepConv::mixer(mixer, c, branches);
    scale2_ = layer_scale(scope, "layer_scale", c);
  } else {
    norm_ = nn::LayerNorm2d(scope, "norm", c, kNormEps);
    qkv_ = nn::Linear(mixer, "qkv", c, 3 * c, false, small());
    proj_ = nn::Linear(mixer, "proj", c, c, true, small());
    scale1_ = layer_scale(scope, "layer_scale_1", c);
    scale2_ = layer_scale(scope, "layer_scale_2", c);
  }
  const std::int64_t inner = stage.inner();
  feed_forward_ = ConvFeedForward(scope.child("convffn"), c, inner);
}

at::Tensor FastVitBlock::attend(const at::Tensor& x, const nn::ForwardContext& ctx) const {
  const std::int64_t images = x.size(0), width = x.size(1), pixels = x.size(2) * x.size(3);
  const at::Tensor tokens = norm_(x).reshape({images, width, pixels}).transpose(1, 2);
  const at::Tensor qkv = qkv_(tokens, ctx)
                             .reshape({images, pixels, 3, width / FastVitConfig::kHeadWidth, FastVitConfig::kHeadWidth})
                             .permute({2, 0, 3, 1, 4});
  const at::Tensor mixed = nn::attention(qkv.select(0, 0), qkv.select(0, 1), qkv.select(0, 2), std::nullopt, false);
  return proj_(nn::merge_heads(mixed), ctx).transpose(1, 2).reshape(x.sizes());
}

at::Tensor FastVitBlock::operator()(const at::Tensor& x, const nn::ForwardContext& ctx) const {
  const at::Tensor mixed = mixer_ == TokenMixer::convolution ? conv_(x) : x.add(attend(x, ctx).mul(scale1_->value()));
  return mixed.add(feed_forward_(mixed).mul(scale2_->value()));
}

FastVitExpansion::FastVitExpansion(const nn::Scope& scope, const FastVitConfig& config) {
  const std::int64_t in = config.stages.back().width;
  const std::int64_t out = config.width();
  conv_ =
      RepConv::mobile_one(scope, {.in = in, .out = out, .kernel = 3, .stride = 1, .groups = in}, config.branches, true);
  reduce_ = nn::Conv2d(scope, "se.reduce", {.in = out, .out = config.squeeze});
  expand_ = nn::Conv2d(scope, "se.expand", {.in = config.squeeze, .out = out});
}

at::Tensor FastVitExpansion::operator()(const at::Tensor& x) const {
  const at::Tensor wide = conv_(x);
  const at::Tensor gate = at::sigmoid(expand_(at::relu(reduce_(wide.mean({2, 3}, true)))));
  return at::gelu(wide.mul(gate));
}

}  // namespace tessera::models
