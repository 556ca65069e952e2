#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/upsample_linear1d.h>

#include <cmath>

#include <fmt/ranges.h>

#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"
#include "tessera/models/sam.hpp"
#include "tessera/nn/functional.hpp"

namespace tessera::models {
namespace {

constexpr double kEncoderEps = 1e-6;

/// [I,h,w,E] into windows [I*nh*nw, s, s, E], padded with zeros below and right. The padded tokens take part in
/// attention, as in the original.
at::Tensor to_windows(const at::Tensor& x, std::int64_t s) {
  const std::int64_t pad_h = (s - x.size(1) % s) % s;
  const std::int64_t pad_w = (s - x.size(2) % s) % s;
  const at::Tensor padded = pad_h + pad_w > 0 ? at::constant_pad_nd(x, {0, 0, 0, pad_w, 0, pad_h}) : x;
  const std::int64_t rows = padded.size(1) / s;
  const std::int64_t columns = padded.size(2) / s;
  return padded.reshape({x.size(0), rows, s, columns, s, x.size(3)})
      .permute({0, 1, 3, 2, 4, 5})
      .reshape({x.size(0) * rows * columns, s, s, x.size(3)});
}

/// ctx for the windows of pictures, one picture's after another's: an adapter's dropout goes by rows.
nn::ForwardContext keyed_by_window(const nn::ForwardContext& ctx, std::int64_t windows) {
  nn::ForwardContext out = ctx;
  const auto pictures = static_cast<std::int64_t>(ctx.sample_keys.size());
  if (!ctx.training || pictures == 0) return out;
  out.sample_keys.clear();
  for (const auto key : ctx.sample_keys) {
    for (std::int64_t w = 0; w < windows / pictures; ++w) out.sample_keys.push_back(mix_keys(key, w));
  }
  return out;
}

/// The inverse of to_windows, without the padding.
at::Tensor from_windows(const at::Tensor& windows, std::int64_t s, at::IntArrayRef shape) {
  const std::int64_t rows = (shape[1] + s - 1) / s;
  const std::int64_t columns = (shape[2] + s - 1) / s;
  return windows.reshape({shape[0], rows, columns, s, s, shape[3]})
      .permute({0, 1, 3, 2, 4, 5})
      .reshape({shape[0], rows * s, columns * s, shape[3]})
      .narrow(1, 0, shape[1])
      .narrow(2, 0, shape[2]);
}

/// Row q, column k of the result is the table's row q - k + size - 1: [2*size-1, d] to [size, size, d]. A table of
/// another length is resized first.
at::Tensor relative_rows(at::Tensor table, std::int64_t size) {
  const std::int64_t length = 2 * size - 1;
  if (table.size(0) != length) {
    table = at::upsample_linear1d(table.t().unsqueeze(0), {length}, /*align_corners=*/false).squeeze(0).t();
  }
  const at::Tensor index = at::arange(size, at::TensorOptions().dtype(at::kLong).device(table.device()));
  const at::Tensor offsets = index.unsqueeze(1).sub(index.unsqueeze(0)).add(size - 1);
  return table.index_select(0, offsets.flatten()).view({size, size, table.size(1)});
}

}  // namespace

SamBlock::SamBlock(const nn::Scope& scope, const SamConfig& config, std::int64_t index)
    : heads_(config.num_heads), window_(config.window_size) {
  for (const std::int64_t global : config.global_attn_indexes) {
    if (global == index) window_ = 0;
  }
  const std::int64_t d = config.embed_dim;
  const auto inner = static_cast<std::int64_t>(static_cast<double>(d) * config.mlp_ratio);
  const std::int64_t side = window_ == 0 ? config.grid() : window_;
  const nn::Scope attn = scope.child("attn");
  norm1_ = nn::LayerNorm(scope, "norm1", d, kEncoderEps);
  if (config.use_rel_pos) {
    rel_h_ = attn.param("rel_pos_h", {2 * side - 1, d / heads_}, nn::Init::zeros());
    rel_w_ = attn.param("rel_pos_w", {2 * side - 1, d / heads_}, nn::Init::zeros());
  }
  qkv_ = nn::Linear(attn, "qkv", d, 3 * d, config.qkv_bias);
  proj_ = nn::Linear(attn, "proj", d, d, true);
  norm2_ = nn::LayerNorm(scope, "norm2", d, kEncoderEps);
  lin1_ = nn::Linear(scope.child("mlp"), "lin1", d, inner, true);
  lin2_ = nn::Linear(scope.child("mlp"), "lin2", inner, d, true);
}

at::Tensor SamBlock::attend(const at::Tensor& x, const nn::ForwardContext& ctx) const {
  const std::int64_t batch = x.size(0);
  const std::int64_t h = x.size(1);
  const std::int64_t w = x.size(2);
  const std::int64_t head_dim = x.size(3) / heads_;
  const at::Tensor qkv = qkv_(x, ctx).view({batch, h * w, 3, heads_, head_dim}).permute({2, 0, 3, 1, 4});
  const at::Tensor q = qkv.select(0, 0);
  std::optional<at::Tensor> bias;
  if (rel_h_) {
    // The relative term uses the query before it is scaled; attention scales the dot product alone.
    const at::Tensor grid = q.reshape({batch, heads_, h, w, head_dim});
    const at::Tensor rel_h = at::einsum("bnhwc,hkc->bnhwk", {grid, relative_rows(rel_h_->value(), h)});
    const at::Tensor rel_w = at::einsum("bnhwc,wkc->bnhwk", {grid, relative_rows(rel_w_->value(), w)});
    bias = rel_h.unsqueeze(5).add(rel_w.unsqueeze(4)).reshape({batch, heads_, h * w, h * w});
  }
  const at::Tensor mixed = nn::merge_heads(nn::attention(q, qkv.select(0, 1), qkv.select(0, 2), bias, false));
  return proj_(mixed.reshape({batch, h, w, x.size(3)}), ctx);
}

at::Tensor SamBlock::operator()(const at::Tensor& x, const nn::ForwardContext& ctx) const {
  at::Tensor mixed = norm1_(x);
  if (window_ == 0) {
    mixed = attend(mixed, ctx);
  } else {
    const at::Tensor windows = to_windows(mixed, window_);
    mixed = from_windows(attend(windows, keyed_by_window(ctx, windows.size(0))), window_, x.sizes());
  }
  const at::Tensor h = x.add(mixed);
  return h.add(lin2_(nn::activate(nn::Activation::gelu, lin1_(norm2_(h), ctx)), ctx));
}

SamImageEncoder::SamImageEncoder(nn::ModelLayout& layout, const SamConfig& config, const std::string& prefix)
    : config_(config) {
  patch_unit_ = layout.add_unit(prefix + ".patch_embed");
  const nn::Scope scope(layout, patch_unit_, prefix);
  if (config.use_abs_pos) {
    pos_embed_ = scope.param("pos_embed", {1, config.grid(), config.grid(), config.embed_dim}, nn::Init::zeros());
  }
  patch_embed_ =
      nn::Conv2d(scope.child("patch_embed"), "proj",
                 {.in = 3, .out = config.embed_dim, .kernel = config.patch_size, .stride = config.patch_size});
  for (std::int64_t i = 0; i < config.depth; ++i) {
    const std::string name = prefix + ".blocks." + std::to_string(i);
    block_units_.push_back(layout.add_unit(name));
    blocks_.emplace_back(nn::Scope(layout, block_units_.back(), name), config, i);
  }
  neck_unit_ = layout.add_unit(prefix + ".neck");
  const nn::Scope neck(layout, neck_unit_, prefix + ".neck");
  const std::int64_t d = config.prompt_embed_dim;
  neck0_ = nn::Conv2d(neck, "0", {.in = config.embed_dim, .out = d, .bias = false});
  neck1_ = nn::LayerNorm2d(neck, "1", d, kEncoderEps);
  neck2_ = nn::Conv2d(neck, "2", {.in = d, .out = d, .kernel = 3, .padding = 1, .bias = false});
  neck3_ = nn::LayerNorm2d(neck, "3", d, kEncoderEps);
}

void SamImageEncoder::check_size(const at::Tensor& pixels) const {
  const bool pictures = pixels.dim() == 4 && pixels.size(1) == 3;
  if (!config_.use_abs_pos) {
    if (pictures && pixels.size(2) >= config_.patch_size && pixels.size(3) >= config_.patch_size) return;
    throw RequestError("SAM takes pictures [I,3,H,W] of at least one patch of {}, not {}", config_.patch_size,
                       fmt::join(pixels.sizes(), "x"));
  }
  if (pictures && pixels.size(2) == config_.image_size && pixels.size(3) == config_.image_size) return;
  throw RequestError(
      "SAM takes pictures [I,3,{0},{0}], not {1}: resize the longest side to {0} and pad the other, or set image_size",
      config_.image_size, fmt::join(pixels.sizes(), "x"));
}

at::Tensor SamImageEncoder::forward(const at::Tensor& pixels, nn::UnitRunner& runner, const nn::ForwardContext& ctx,
                                    nn::Tensors* trace) const {
  check_size(pixels);
  at::Tensor x = runner
                     .run(patch_unit_, {pixels},
                          [this, ctx](const nn::Tensors& in) {
                            const at::Tensor patches =
                                patch_embed_(in.at(0).to(patch_embed_.weight()->value().scalar_type()), ctx);
                            const at::Tensor grid = patches.permute({0, 2, 3, 1});
                            return nn::Tensors{pos_embed_ ? grid.add(pos_embed_->value()) : grid};
                          })
                     .at(0);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const SamBlock& block = blocks_[i];
    x = runner
            .run(block_units_[i], {x},
                 [&block, ctx](const nn::Tensors& in) { return nn::Tensors{block(in.at(0), ctx)}; })
            .at(0);
    if (trace != nullptr) trace->push_back(x);
  }
  return runner
      .run(neck_unit_, {x},
           [this, ctx](const nn::Tensors& in) {
             const at::Tensor half = neck1_(neck0_(in.at(0).permute({0, 3, 1, 2}), ctx));
             return nn::Tensors{neck3_(neck2_(half, ctx))};
           })
      .at(0);
}

}  // namespace tessera::models
