#pragma once
/// LISA: a language model (LLaMA in the reference; Qwen2, Mistral, MPT) with features of CLIP or a FastViT spliced into
/// its text, whose hidden state before each [SEG] prompts SAM's mask decoder. Source: dvlab-research/LISA model/LISA.py
/// and model/llava.
///
/// Shapes: I images, C conversations, L text length, P patches of the tower, T = L + P - 1, D hidden, V vocabulary,
/// n_b masks of image b, n their sum.
///
/// Units in the order of a step: embed_tokens, the tower's blocks, mm_projector, SAM's encoder, the decoder layers,
/// norm and lm_head, text_hidden_fcs with SAM's prompt encoder and mask decoder. It does not depend on what is in a
/// batch; I, C and n may be 0. Batches that bring a tower's features do without its units: all batches of a run, or
/// none.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tessera/models/language_config.hpp"
#include "tessera/models/lisa_batch.hpp"
#include "tessera/models/sam.hpp"
#include "tessera/models/vision_tower.hpp"
#include "tessera/nn/context.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::models {

struct LisaConfig {
  LanguageConfig language;
  VisionTowerConfig tower;  ///< CLIP in the reference; its class token is dropped
  SamConfig sam;
  std::string projector_type = "linear";  ///< mm_projector_type
  std::int64_t out_dim = 256;             ///< width of [SEG]'s projection; SAM's prompt width
  bool use_im_start_end = true;           ///< mm_use_im_start_end; for whoever writes the prompts
  std::int64_t seg_token_id = -1;         ///< looked up in the tokenizer by name; -1: no token is [SEG]
  /// v0's text has P of these ids where v1's has one -200 ("<im_patch>"); rows of either form are taken. -1: none.
  std::int64_t im_patch_token_id = -1;
  /// json: the folder's config.json; tower: that of mm_vision_tower. seg_token_id is left -1.
  static LisaConfig from_json(const nlohmann::json& json, const nlohmann::json& tower);
};

/// Weights of the losses in the total (LISA's --ce_loss_weight, --bce_loss_weight, --dice_loss_weight).
struct LossWeights {
  double ce = 1.0;
  double bce = 2.0;
  double dice = 0.5;
};

/// How many things a batch's losses sum over, known without a forward pass.
struct LisaCounts {
  std::int64_t target_tokens = 0;  ///< next-token targets that are not -100
  std::int64_t masks = 0;
};
LisaCounts count_targets(const LisaBatch& batch);

/// What the sums are divided by. The reference divides by the micro-batch's own counts; a trainer that normalises over
/// the global batch passes the global ones. A sum over nothing is 0 whatever the denominator.
struct LossScale {
  double ce_tokens = 1.0;
  double masks = 1.0;
  static LossScale from(const LisaCounts& counts) {
    return {static_cast<double>(counts.target_tokens), static_cast<double>(counts.masks)};
  }
};

struct LisaForwardOptions {
  LossWeights weights;
  std::optional<LossScale> scale;  ///< absent: the micro-batch's own counts, as the reference does
  bool losses = true;              ///< false: masks only (validation); batch.masks may then be empty
  bool full_logits = false;        ///< logits at all positions instead of where labels are
  bool trace = false;              ///< fill the fields below the line
};

struct LisaOutputs {
  at::Tensor loss;  ///< fp32 scalars, with graph; weights are already in
  at::Tensor ce_loss;
  at::Tensor mask_bce_loss;
  at::Tensor mask_dice_loss;
  at::Tensor mask_loss;                ///< bce + dice
  std::vector<at::Tensor> pred_masks;  ///< [I] fp32 [n_b,H_b,W_b] logits at the original size
  at::Tensor logits;                   ///< [C,T,V] when full_logits
  // --- with options.trace ---
  nn::Tensors hidden_states;                ///< layers+1 of [C,T,D]; the last is after the final norm
  at::Tensor final_hidden;                  ///< [C,T,D]
  at::Tensor clip_features;                 ///< [I,P,H], the tower's, whatever it is
  at::Tensor projected_features;            ///< [I,P,D]
  at::Tensor sam_image_embeddings;          ///< [I,out_dim,h,w]
  at::Tensor pred_embeddings;               ///< [n,out_dim]
  at::Tensor seg_positions;                 ///< i64 [n,2]: conversation, position in the expanded sequence
  std::vector<at::Tensor> low_res_masks;    ///< [I] [n_b,1,4h,4w]
  std::vector<at::Tensor> iou_predictions;  ///< [I] [n_b,1]
};

class LisaModel {
 public:
  /// Adds LISA's units to the layout, shapes alone. The model holds handles to the layout's weights, not the layout.
  LisaModel(nn::ModelLayout& layout, LisaConfig config);
  ~LisaModel();
  LisaModel(LisaModel&&) noexcept;

  /// Collective when the runner is. ctx.sample_keys is taken from the batch. Throws RequestError before any unit runs
  /// when the batch contradicts itself: shapes, a row without exactly one image placeholder, an id outside the
  /// vocabulary, an image whose count of [SEG] differs from its count of masks (the text names both).
  LisaOutputs forward(const LisaBatch& batch, nn::UnitRunner& runner, const nn::ForwardContext& ctx,
                      const LisaForwardOptions& options = {}) const;

  const LisaConfig& config() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace tessera::models
