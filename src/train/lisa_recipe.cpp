// LISA: LoRA on the language model, embedding, head, [SEG]'s projection and the mask decoder. Source: LISA train_ds.py.
#include "tessera/adapt/trainable.hpp"
#include "tessera/data/frozen_towers.hpp"
#include "tessera/models/lisa_folder.hpp"
#include "tessera/models/llava_folder.hpp"
#include "train/recipes.hpp"

namespace tessera::train {

namespace {

// The language model's layers and last norm.
bool is_language(const std::string& name) {
  return name.starts_with("model.layers.") || name == "model.norm.weight" || name.starts_with("transformer.blocks.") ||
         name == "transformer.norm_f.weight";
}

class LisaRecipe final : public Recipe {
 public:
  explicit LisaRecipe(const TrainConfig& config)
      : config_(config),
        folder_(
            models::read_lisa_folder({config.version, config.vision_tower, config.vision_pretrained, config.hub_dir})) {
    if (config.out_dim.value_or(folder_.lisa.out_dim) != folder_.lisa.out_dim) {
      throw RequestError("--out_dim {}: text_hidden_fcs and SAM's prompts are {} wide in {}", *config.out_dim,
                         folder_.lisa.out_dim, config.version);
    }
  }

  void build(nn::ModelLayout& layout) override { model_.emplace(layout, folder_.lisa); }
  text::Tokenizer load_tokenizer() const override { return models::load_lisa_tokenizer(folder_); }
  io::SourcePtr open_weights() const override { return models::open_lisa_weights(folder_); }
  std::optional<std::string> layout_name(const std::string& name) const override {
    const auto& fastvit = folder_.lisa.tower.fastvit;
    return models::llava_layout_name(name, folder_.lisa.language.base(), fastvit ? &*fastvit : nullptr);
  }
  bool may_be_new(const nn::ParamState& p) const override { return models::may_be_new(folder_, p); }

  std::optional<adapt::LoraConfig> adapters(const nn::ModelLayout&) const override {
    if (config_.lora_r == 0) return std::nullopt;
    auto lora = lora_config(config_.lora_r, config_.lora_alpha, config_.lora_dropout, config_.lora_target_modules);
    apply(config_.adapter, lora, config_.total_steps());
    return lora;
  }

  void mark_trained(nn::ModelLayout& layout) const override {
    adapt::mark_trainable(layout, adapt::train_scope_from_name(config_.train_scope));
    for (const auto& p : layout.params()) {
      const bool decoder = p->name.find(".mask_decoder.") != std::string::npos && !layout.unit(p->unit).fused;
      if (!config_.train_mask_decoder && decoder) p->trainable = false;
      // LISA without LoRA leaves the language model itself to be trained; a prefix stands for LoRA.
      const bool language = is_language(p->name) && config_.adapter.num_virtual_tokens == 0;
      if (config_.train_scope == "lisa" && config_.lora_r == 0 && language && !p->buffer) p->trainable = true;
    }
  }

  ParamGroups param_groups(const nn::ModelLayout&) const override {
    return {{{"all", config_.lr, config_.weight_decay}}, [](const nn::ParamState&) { return std::size_t{0}; }};
  }

  data::InputSpec input_spec(std::int64_t model_max_length) const override {
    data::InputSpec spec;
    spec.sam_size = folder_.lisa.sam.image_size;
    data::describe_tower(folder_.tower, folder_.lisa.tower, spec);
    spec.image_patches = folder_.lisa.tower.tokens();
    spec.model_max_length = model_max_length;
    return spec;
  }

  std::vector<data::TowerFeatures> towers() const override {
    const auto& lisa = folder_.lisa;
    if (lisa.tower.fastvit) return {data::describe_sam(lisa.sam)};  // features are stored of CLIP and SAM
    return {data::describe_clip(lisa.tower, input_spec(0)), data::describe_sam(lisa.sam)};
  }

  shard::Workload workload(const nn::ModelLayout& layout, const BatchShape& shape,
                           std::int64_t element) const override {
    return lisa_workload(layout, folder_.lisa, shape, element);
  }

  StepLosses forward(const Batch& batch, nn::UnitRunner& runner, const nn::ForwardContext& ctx,
                     const LossOptions& options) const override {
    models::LisaForwardOptions forward;
    forward.weights = options.weights;
    forward.scale = options.scale;
    const auto out = model_->forward(of_family<models::LisaBatch>(batch), runner, ctx, forward);
    return {out.loss, out.ce_loss, out.mask_bce_loss, out.mask_dice_loss, out.mask_loss};
  }

  const models::LisaModel* segments() const override { return &*model_; }

  nlohmann::json exported_config() const override {
    auto json = folder_.config;
    json["vocab_size"] = folder_.lisa.language.vocab_size();
    json["train_mask_decoder"] = true;
    json["out_dim"] = folder_.lisa.out_dim;
    return json;
  }
  const std::filesystem::path& folder() const override { return folder_.folder; }
  const std::filesystem::path& tower_folder() const override { return folder_.tower; }

 private:
  TrainConfig config_;
  models::LisaFolder folder_;
  std::optional<models::LisaModel> model_;
};

}  // namespace

std::unique_ptr<Recipe> make_lisa_recipe(const TrainConfig& config) {
  return std::make_unique<LisaRecipe>(config);
}

}  // namespace tessera::train
