#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>

#include "tessera/models/sam.hpp"
#include "tessera/nn/functional.hpp"

namespace tessera::models {

SamAttention::SamAttention(const nn::Scope& scope, std::int64_t dim, std::int64_t inner, std::int64_t heads)
    : heads_(heads),
      q_(scope, "q_proj", dim, inner, true),
      k_(scope, "k_proj", dim, inner, true),
      v_(scope, "v_proj", dim, inner, true),
      out_(scope, "out_proj", inner, dim, true) {}

at::Tensor SamAttention::operator()(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const nn::ForwardContext& ctx) const {
  const at::Tensor mixed = nn::attention(nn::split_heads(q_(q, ctx), heads_), nn::split_heads(k_(k, ctx), heads_),
                                         nn::split_heads(v_(v, ctx), heads_), std::nullopt, false);
  return out_(nn::merge_heads(mixed), ctx);
}

SamMlp::SamMlp(const nn::Scope& scope, std::int64_t in, std::int64_t hidden, std::int64_t out, std::int64_t depth) {
  const nn::Scope layers = scope.child("layers");
  for (std::int64_t i = 0; i < depth; ++i) {
    layers_.emplace_back(layers, std::to_string(i), i == 0 ? in : hidden, i + 1 == depth ? out : hidden, true);
  }
}

at::Tensor SamMlp::operator()(at::Tensor x, const nn::ForwardContext& ctx) const {
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    x = layers_[i](x, ctx);
    if (i + 1 < layers_.size()) x = x.relu();
  }
  return x;
}

SamMaskDecoder::SamMaskDecoder(const nn::Scope& scope, const SamConfig& config) : config_(config) {
  const std::int64_t d = config.prompt_embed_dim;
  const std::int64_t heads = config.decoder_num_heads;
  const nn::Scope transformer = scope.child("transformer");
  for (std::int64_t i = 0; i < config.decoder_depth; ++i) {
    const nn::Scope own = transformer.child("layers").child(std::to_string(i));
    SamTwoWayBlock block;
    block.self_attn = SamAttention(own.child("self_attn"), d, d, heads);
    block.norm1 = nn::LayerNorm(own, "norm1", d, config.norm_eps);
    block.token_to_image = SamAttention(own.child("cross_attn_token_to_image"), d, d / 2, heads);
    block.norm2 = nn::LayerNorm(own, "norm2", d, config.norm_eps);
    block.lin1 = nn::Linear(own.child("mlp"), "lin1", d, config.decoder_mlp_dim, true);
    block.lin2 = nn::Linear(own.child("mlp"), "lin2", config.decoder_mlp_dim, d, true);
    block.norm3 = nn::LayerNorm(own, "norm3", d, config.norm_eps);
    block.norm4 = nn::LayerNorm(own, "norm4", d, config.norm_eps);
    block.image_to_token = SamAttention(own.child("cross_attn_image_to_token"), d, d / 2, heads);
    block.first = i == 0;
    blocks_.push_back(std::move(block));
  }
  final_attn_ = SamAttention(transformer.child("final_attn_token_to_image"), d, d / 2, heads);
  final_norm_ = nn::LayerNorm(transformer, "norm_final_attn", d, 1e-5);
  const std::int64_t masks = config.num_multimask_outputs + 1;
  iou_token_ = scope.child("iou_token").param("weight", {1, d}, nn::Init::normal(1.0));
  mask_tokens_ = scope.child("mask_tokens").param("weight", {masks, d}, nn::Init::normal(1.0));
  const nn::Scope up = scope.child("output_upscaling");
  up0_ = nn::ConvTranspose2d(up, "0", {.in = d, .out = d / 4, .kernel = 2, .stride = 2});
  up1_ = nn::LayerNorm2d(up, "1", d / 4, 1e-6);
  up3_ = nn::ConvTranspose2d(up, "3", {.in = d / 4, .out = d / 8, .kernel = 2, .stride = 2});
  for (std::int64_t i = 0; i < masks; ++i) {
    hyper_.emplace_back(scope.child("output_hypernetworks_mlps").child(std::to_string(i)), d, d, d / 8, 3);
  }
  iou_head_ = SamMlp(scope.child("iou_prediction_head"), d, config.iou_head_hidden_dim, masks, config.iou_head_depth);
}

SamMaskDecoder::Streams SamMaskDecoder::two_way(const at::Tensor& tokens, const at::Tensor& image, const at::Tensor& pe,
                                                const nn::ForwardContext& ctx) const {
  at::Tensor queries = tokens;
  at::Tensor keys = image;
  for (const SamTwoWayBlock& block : blocks_) {
    if (block.first) {
      queries = block.norm1(block.self_attn(queries, queries, queries, ctx));
    } else {
      const at::Tensor q = queries.add(tokens);
      queries = block.norm1(queries.add(block.self_attn(q, q, queries, ctx)));
    }
    queries = block.norm2(queries.add(block.token_to_image(queries.add(tokens), keys.add(pe), keys, ctx)));
    queries = block.norm3(queries.add(block.lin2(block.lin1(queries, ctx).relu(), ctx)));
    keys = block.norm4(keys.add(block.image_to_token(keys.add(pe), queries.add(tokens), queries, ctx)));
  }
  queries = final_norm_(queries.add(final_attn_(queries.add(tokens), keys.add(pe), keys, ctx)));
  return {queries, keys};
}

SamMasks SamMaskDecoder::operator()(const at::Tensor& image_embeddings, const at::Tensor& image_pe,
                                    const SamPromptEmbeddings& prompts, bool multimask,
                                    const nn::ForwardContext& ctx) const {
  const std::int64_t n = prompts.sparse.size(0);
  const std::int64_t d = config_.prompt_embed_dim;
  const std::int64_t h = image_embeddings.size(2);
  const std::int64_t w = image_embeddings.size(3);
  const std::int64_t masks = config_.num_multimask_outputs + 1;
  const at::Tensor output_tokens = at::cat({iou_token_->value(), mask_tokens_->value()}, 0).unsqueeze(0);
  const at::Tensor tokens = at::cat({output_tokens.expand({n, masks + 1, d}), prompts.sparse}, 1);
  const at::Tensor image = image_embeddings.add(prompts.dense).flatten(2).transpose(1, 2);
  const Streams out = two_way(tokens, image, image_pe.flatten(2).transpose(1, 2), ctx);

  const auto gelu = [](const at::Tensor& x) { return nn::activate(nn::Activation::gelu, x); };
  const at::Tensor grid = out.image.transpose(1, 2).reshape({n, d, h, w});
  const at::Tensor upscaled = gelu(up3_(gelu(up1_(up0_(grid)))));
  // Only the masks asked for are multiplied out; the others' networks get no gradient, which is the zero it would be.
  const std::int64_t first = multimask ? 1 : 0;
  const std::int64_t count = multimask ? masks - 1 : 1;
  std::vector<at::Tensor> kernels;
  for (std::int64_t i = first; i < first + count; ++i) {
    kernels.push_back(hyper_[static_cast<std::size_t>(i)](out.tokens.select(1, 1 + i), ctx));
  }
  const at::Tensor logits = at::matmul(at::stack(kernels, 1), upscaled.flatten(2));
  const at::Tensor iou = iou_head_(out.tokens.select(1, 0), ctx);
  return {logits.view({n, count, 4 * h, 4 * w}), iou.narrow(1, first, count)};
}

}  // namespace tessera::models
