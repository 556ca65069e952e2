#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <numbers>

#include "tessera/core/error.hpp"
#include "tessera/models/sam.hpp"
#include "tessera/nn/functional.hpp"

namespace tessera::models {

SamPromptEncoder::SamPromptEncoder(const nn::Scope& scope, const SamConfig& config)
    : image_size_(config.image_size), grid_(config.grid()), dim_(config.prompt_embed_dim) {
  constexpr double kEps = 1e-6;
  gaussian_ =
      scope.child("pe_layer").buffer("positional_encoding_gaussian_matrix", {2, dim_ / 2}, nn::Init::normal(1.0));
  for (int i = 0; i < 4; ++i) {
    point_embeddings_.push_back(
        scope.child("point_embeddings").child(std::to_string(i)).param("weight", {1, dim_}, nn::Init::normal(1.0)));
  }
  not_a_point_ = scope.child("not_a_point_embed").param("weight", {1, dim_}, nn::Init::normal(1.0));
  const nn::Scope down = scope.child("mask_downscaling");
  const std::int64_t wide = config.mask_in_chans;
  const std::int64_t narrow = wide / 4;
  down0_ = nn::Conv2d(down, "0", {.in = 1, .out = narrow, .kernel = 2, .stride = 2});
  down1_ = nn::LayerNorm2d(down, "1", narrow, kEps);
  down3_ = nn::Conv2d(down, "3", {.in = narrow, .out = wide, .kernel = 2, .stride = 2});
  down4_ = nn::LayerNorm2d(down, "4", wide, kEps);
  down6_ = nn::Conv2d(down, "6", {.in = wide, .out = dim_});
  no_mask_ = scope.child("no_mask_embed").param("weight", {1, dim_}, nn::Init::normal(1.0));
}

at::Tensor SamPromptEncoder::encode(const at::Tensor& unit_coordinates) const {
  const at::Tensor& gaussian = gaussian_->value();
  const at::Tensor centred = unit_coordinates.to(gaussian.scalar_type()).mul(2.0).sub(1.0);
  const at::Tensor angles = at::matmul(centred, gaussian).mul(2.0 * std::numbers::pi);
  return at::cat({angles.sin(), angles.cos()}, -1);
}

at::Tensor SamPromptEncoder::image_pe() const {
  const at::Tensor& gaussian = gaussian_->value();
  const at::Tensor centres = at::arange(grid_, gaussian.options()).add(0.5).div(static_cast<double>(grid_));
  const at::Tensor x = centres.unsqueeze(0).expand({grid_, grid_});
  const at::Tensor y = centres.unsqueeze(1).expand({grid_, grid_});
  return encode(at::stack({x, y}, -1)).permute({2, 0, 1}).unsqueeze(0);
}

at::Tensor SamPromptEncoder::embed_points(const SamPrompts& prompts) const {
  at::Tensor points = prompts.points.add(0.5);
  at::Tensor labels = prompts.labels;
  if (!prompts.boxes.defined()) {  // a point that is none stands where the box would
    points = at::cat({points, at::zeros({points.size(0), 1, 2}, points.options())}, 1);
    labels = at::cat({labels, at::full({labels.size(0), 1}, -1, labels.options())}, 1);
  }
  const at::Tensor code = encode(points.div(static_cast<double>(image_size_)));
  const at::Tensor kind = labels.unsqueeze(-1);
  const at::Tensor nowhere = kind.eq(-1).logical_or(kind.eq(-10));
  const at::Tensor placed = at::where(nowhere, at::zeros({1}, code.options()), code);
  const auto added = [&](std::int64_t label, const nn::Param& weight) {
    return kind.eq(label).to(code.scalar_type()).mul(weight->value());
  };
  return placed.add(added(-1, not_a_point_)).add(added(0, point_embeddings_[0])).add(added(1, point_embeddings_[1]));
}

at::Tensor SamPromptEncoder::embed_boxes(const at::Tensor& boxes) const {
  const at::Tensor corners = boxes.add(0.5).reshape({boxes.size(0), 2, 2});
  const at::Tensor kinds = at::cat({point_embeddings_[2]->value(), point_embeddings_[3]->value()}, 0);
  return encode(corners.div(static_cast<double>(image_size_))).add(kinds);
}

at::Tensor SamPromptEncoder::embed_masks(const at::Tensor& masks) const {
  const auto gelu = [](const at::Tensor& x) { return nn::activate(nn::Activation::gelu, x); };
  const at::Tensor half = gelu(down1_(down0_(masks.to(gaussian_->value().scalar_type()))));
  return down6_(gelu(down4_(down3_(half))));
}

SamPromptEmbeddings SamPromptEncoder::operator()(const SamPrompts& prompts) const {
  std::vector<at::Tensor> sparse;
  if (prompts.points.defined()) sparse.push_back(embed_points(prompts));
  if (prompts.boxes.defined()) sparse.push_back(embed_boxes(prompts.boxes));
  if (prompts.text.defined()) sparse.push_back(prompts.text.unsqueeze(1));
  SamPromptEmbeddings embeddings;
  const std::int64_t count = !sparse.empty()           ? sparse.front().size(0)
                             : prompts.masks.defined() ? prompts.masks.size(0)
                                                       : 1;
  embeddings.sparse = sparse.empty() ? at::empty({count, 0, dim_}, gaussian_->value().options()) : at::cat(sparse, 1);
  embeddings.dense = prompts.masks.defined()
                         ? embed_masks(prompts.masks)
                         : no_mask_->value().view({1, dim_, 1, 1}).expand({count, dim_, grid_, grid_});
  return embeddings;
}

}  // namespace tessera::models
