#include "tessera/models/lisa.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/repeat_interleave.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "lisa_sequence.hpp"
#include "position_keys.hpp"
#include "tessera/core/error.hpp"
#include "tessera/models/projector.hpp"
#include "tessera/nn/upload.hpp"

namespace tessera::models {

/// text_hidden_fcs, SAM's prompt encoder and mask decoder: one unit, called once for all prompts of a micro-batch.
struct MaskHead {
  nn::UnitId unit;
  nn::Linear fc0, fc2;
  SamPromptEncoder prompts;
  SamMaskDecoder decoder;

  MaskHead(nn::ModelLayout& layout, const LisaConfig& config)
      : unit(layout.add_unit(config.language.base() + ".visual_model.mask_decoder")) {
    const std::string base = config.language.base();
    const std::int64_t width = config.language.hidden_size();
    const nn::Scope fcs(layout, unit, base + ".text_hidden_fcs.0");
    fc0 = nn::Linear(fcs, "0", width, width, true);
    fc2 = nn::Linear(fcs, "2", width, config.out_dim, true);
    const nn::Scope sam(layout, unit, base + ".visual_model");
    prompts = SamPromptEncoder(sam.child("prompt_encoder"), config.sam);
    decoder = SamMaskDecoder(sam.child("mask_decoder"), config.sam);
  }
};

struct LisaModel::Parts {
  LisaConfig config;
  std::unique_ptr<LanguageModel> language;
  std::unique_ptr<VisionTower> tower;
  Projector projector;
  SamImageEncoder sam;
  MaskHead mask_head;

  // The order of the members' construction is the order of the units.
  Parts(nn::ModelLayout& layout, LisaConfig given)
      : config(std::move(given)),
        language(embedding_first(layout, config.language)),
        tower(make_vision_tower(layout, config.tower, config.language.base() + ".vision_tower.vision_tower")),
        projector(layout, config.language.base() + ".mm_projector", config.projector_type, config.tower.width(),
                  config.language.hidden_size()),
        sam(layout, config.sam, config.language.base() + ".visual_model.image_encoder"),
        mask_head(decoder_then_mask_head(layout)) {}

  static std::unique_ptr<LanguageModel> embedding_first(nn::ModelLayout& layout, const LanguageConfig& given) {
    auto model = make_language_model(given);
    model->add_embedding(layout);
    return model;
  }
  MaskHead decoder_then_mask_head(nn::ModelLayout& layout) {
    language->add_decoder(layout);
    return {layout, config};
  }

  /// The tower's features [I,P,H], its own or those that the batch brings.
  at::Tensor see(const LisaBatch& batch, nn::UnitRunner& runner, const nn::ForwardContext& ctx) const {
    if (batch.clip_features.defined()) return batch.clip_features;
    return tower->features(batch.images_clip, runner, ctx);
  }
};

LisaModel::LisaModel(nn::ModelLayout& layout, LisaConfig config)
    : parts_(std::make_unique<Parts>(layout, std::move(config))) {}
LisaModel::~LisaModel() = default;
LisaModel::LisaModel(LisaModel&&) noexcept = default;
const LisaConfig& LisaModel::config() const {
  return parts_->config;
}

LisaCounts count_targets(const LisaBatch& batch) {
  LisaCounts counts;
  const std::int64_t length = batch.labels.size(1);
  if (length > 1) {
    const at::Tensor scored = batch.labels.ne(kIgnoreLabel).logical_and(batch.input_ids.ne(kImageToken));
    counts.target_tokens = scored.narrow(1, 1, length - 1).sum().item<std::int64_t>();
  }
  for (const at::Tensor& masks : batch.masks) counts.masks += masks.size(0);
  return counts;
}

namespace {

at::Tensor flat_positions(const at::Tensor& row_and_column, std::int64_t length) {
  return row_and_column.select(1, 0).mul(length).add(row_and_column.select(1, 1));
}

struct HeadResult {
  at::Tensor seg_hidden;  ///< [n,D] after the final norm
  at::Tensor ce_sum;
  at::Tensor logits;        ///< [C,T,V] when asked for
  at::Tensor final_hidden;  ///< [C,T,D] when asked for
};

/// The positions of the flattened [C*T] that anything is computed from: those that precede a [SEG], then those whose
/// next token has a label.
struct WantedRows {
  at::Tensor seg;           ///< i64 [n]
  NextTokenTargets scored;  ///< of m positions
  std::int64_t length;      ///< T
  // In host memory.
  at::Tensor all() const { return scored.positions.defined() ? at::cat({seg, scored.positions}) : seg; }
};

/// Final norm and head. hidden: the wanted rows [n+m,D], which alone are normalised and multiplied out; [C,T,D] if
/// logits or hidden states of all positions are asked for.
HeadResult run_head(const LanguageModel& language, const at::Tensor& hidden, const WantedRows& wanted,
                    nn::UnitRunner& runner, const nn::ForwardContext& ctx, const LisaForwardOptions& options) {
  const bool losses = options.losses;
  const at::Tensor seg = nn::upload(wanted.seg, hidden.device());
  const NextTokenTargets scored = losses ? wanted.scored.on(hidden.device()) : NextTokenTargets{};
  const bool full = options.full_logits;
  const bool trace = options.trace;
  const auto scored_ctx = losses ? keyed_by_position(ctx, wanted.scored.positions, wanted.length) : ctx;
  const nn::Tensors out = runner.run(language.head_unit(), {hidden}, [=, &language](const nn::Tensors& in) {
    nn::Tensors results;
    const at::Tensor normed = language.final_norm(in.at(0));
    if (full || trace) {
      const at::Tensor flat = normed.reshape({-1, normed.size(2)});
      const at::Tensor logits = full ? language.head(normed, ctx) : at::Tensor();
      results.push_back(flat.index_select(0, seg));
      if (losses) {
        results.push_back(
            full ? cross_entropy_sum(logits.reshape({-1, logits.size(2)}).index_select(0, scored.positions),
                                     scored.targets)
                 : language.head_loss(flat.index_select(0, scored.positions), scored.targets, scored_ctx));
      }
      if (full) results.push_back(logits);
      if (trace) results.push_back(normed);
      return results;
    }
    results.push_back(normed.narrow(0, 0, seg.size(0)));
    if (losses) {
      results.push_back(
          language.head_loss(normed.narrow(0, seg.size(0), scored.targets.size(0)), scored.targets, scored_ctx));
    }
    return results;
  });
  HeadResult result;
  std::size_t next = 0;
  result.seg_hidden = out.at(next++);
  if (losses) result.ce_sum = out.at(next++);
  if (full) result.logits = out.at(next++);
  if (trace) result.final_hidden = out.at(next++);
  return result;
}

struct MaskResult {
  at::Tensor pred_embeddings;  ///< [n,out_dim]
  SamMasks masks;              ///< [n,1,…]
};

MaskResult run_mask_head(const MaskHead& head, const at::Tensor& seg_hidden, const at::Tensor& image_embeddings,
                         const std::vector<std::int64_t>& counts, nn::UnitRunner& runner,
                         const nn::ForwardContext& ctx) {
  std::vector<std::int64_t> image_of_prompt;
  for (std::size_t b = 0; b < counts.size(); ++b) {
    image_of_prompt.insert(image_of_prompt.end(), static_cast<std::size_t>(counts[b]), static_cast<std::int64_t>(b));
  }
  const at::Tensor index =
      nn::upload(at::tensor(image_of_prompt, at::TensorOptions().dtype(at::kLong)), image_embeddings.device());
  const nn::Tensors out =
      runner.run(head.unit, {seg_hidden, image_embeddings}, [&head, index, ctx](const nn::Tensors& in) {
        const at::Tensor text = head.fc2(head.fc0(in.at(0), ctx).relu(), ctx);
        SamPrompts given;
        given.text = text;
        const SamPromptEmbeddings prompts = head.prompts(given);
        const SamMasks masks =
            head.decoder(in.at(1).index_select(0, index), head.prompts.image_pe(), prompts, false, ctx);
        return nn::Tensors{text, masks.low_res, masks.iou};
      });
  return {out.at(0), {out.at(1), out.at(2)}};
}

/// Sum over the micro-batch, divided by a given count; 0, with its graph, when there is nothing.
at::Tensor weighted(const at::Tensor& sum, double weight, double count) {
  return sum.mul(count > 0 ? weight / count : 0.0);
}

}  // namespace

namespace {

void fill_losses(LisaOutputs& out, const LisaBatch& batch, const at::Tensor& ce_sum,
                 const LisaForwardOptions& options) {
  const LossScale scale = options.scale ? *options.scale : LossScale::from(count_targets(batch));
  at::Tensor bce = at::zeros({}, ce_sum.options().requires_grad(false));
  at::Tensor dice = at::zeros({}, bce.options());
  for (std::size_t b = 0; b < batch.masks.size(); ++b) {
    const at::Tensor target = batch.masks[b].to(at::kFloat);
    bce = bce.add(mask_bce_sum(out.pred_masks[b], target));
    dice = dice.add(mask_dice_sum(out.pred_masks[b], target));
  }
  out.ce_loss = weighted(ce_sum, options.weights.ce, scale.ce_tokens);
  out.mask_bce_loss = weighted(bce, options.weights.bce, scale.masks);
  out.mask_dice_loss = weighted(dice, options.weights.dice, scale.masks);
  out.mask_loss = out.mask_bce_loss.add(out.mask_dice_loss);
  out.loss = out.ce_loss.add(out.mask_loss);
}

void fill_masks(LisaOutputs& out, const LisaBatch& batch, const MaskResult& result, const LisaSequence& plan,
                const LisaConfig& config, bool trace) {
  std::int64_t first = 0;
  for (std::size_t b = 0; b < plan.seg_counts.size(); ++b) {
    const at::Tensor low_res = result.masks.low_res.narrow(0, first, plan.seg_counts[b]);
    out.pred_masks.push_back(
        postprocess_masks(low_res, config.sam.image_size, batch.resize[b], batch.original[b]).squeeze(1));
    if (trace) {
      out.low_res_masks.push_back(low_res);
      out.iou_predictions.push_back(result.masks.iou.narrow(0, first, plan.seg_counts[b]));
    }
    first += plan.seg_counts[b];
  }
}

}  // namespace

LisaOutputs LisaModel::forward(const LisaBatch& given, nn::UnitRunner& runner, const nn::ForwardContext& ctx,
                               const LisaForwardOptions& options) const {
  const Parts& p = *parts_;
  const LisaBatch batch = with_placeholders(given, p.config);
  const LisaSequence plan = plan_sequence(batch, p.config, options.losses);
  nn::ForwardContext row_ctx = ctx;
  row_ctx.sample_keys = batch.sample_keys;
  nn::ForwardContext image_ctx = ctx;  // the towers see images, not conversations
  image_ctx.sample_keys.clear();
  for (std::int64_t b = 0; b < batch.images_count() && !batch.sample_keys.empty(); ++b) {
    image_ctx.sample_keys.push_back(
        batch.sample_keys.at(static_cast<std::size_t>(batch.offset[static_cast<std::size_t>(b)])));
  }

  const at::Tensor text = p.language->embed(plan.ids, runner);
  // The picture is seen once, however many conversations it has.
  const at::Tensor features = p.see(batch, runner, image_ctx);
  const at::Tensor projected = p.projector.forward(features, runner, image_ctx);
  const at::Tensor image_embeddings =
      batch.sam_features.defined() ? batch.sam_features : p.sam.forward(batch.images, runner, image_ctx);
  const at::Tensor sequence =
      splice(text, projected.index_select(0, nn::upload(plan.image_of_row, text.device())), plan.placeholder);

  LisaOutputs out;
  nn::Tensors layers;
  DecodeOptions decoding;
  decoding.trace = options.trace ? &layers : nullptr;
  const WantedRows wanted{flat_positions(plan.seg_positions, sequence.size(1)),
                          options.losses ? next_token_targets(plan.labels) : NextTokenTargets{}, sequence.size(1)};
  if (!options.full_logits && !options.trace) decoding.rows = nn::upload(wanted.all(), text.device());
  const at::Tensor hidden = p.language->decode(sequence, plan.mask, runner, row_ctx, decoding);
  const HeadResult head = run_head(*p.language, hidden, wanted, runner, row_ctx, options);
  nn::ForwardContext mask_ctx = ctx;
  mask_ctx.sample_keys = plan.seg_keys;  // its rows are prompts
  const MaskResult masks =
      run_mask_head(p.mask_head, head.seg_hidden, image_embeddings, plan.seg_counts, runner, mask_ctx);
  fill_masks(out, batch, masks, plan, p.config, options.trace);
  if (options.losses) fill_losses(out, batch, head.ce_sum, options);
  out.logits = head.logits;
  if (options.trace) {
    layers.push_back(head.final_hidden);
    out.hidden_states = std::move(layers);
    out.final_hidden = head.final_hidden;
    out.clip_features = features;
    out.projected_features = projected;
    out.sam_image_embeddings = image_embeddings;
    out.pred_embeddings = masks.pred_embeddings;
    out.seg_positions = plan.seg_positions;
  }
  return out;
}

}  // namespace tessera::models
