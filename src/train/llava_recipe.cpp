// LLaVA: the stages of llava/train/train.py. Stage one trains the projector alone (tune_mm_mlp_adapter), stage two
// everything but the tower, or LoRA on the language model with the projector. Source: haotian-liu/LLaVA
// llava/train/train.py, llava_trainer.py; apple/ml-fastvlm for the tower's own rate.
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>

#include "tessera/adapt/lora.hpp"
#include "tessera/core/error.hpp"
#include "tessera/data/frozen_towers.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/llava_folder.hpp"
#include "train/recipes.hpp"

namespace tessera::train {

namespace {

constexpr std::string_view kTower = ".vision_tower.";
constexpr std::string_view kProjector = ".mm_projector.";
constexpr std::string_view kNewline = ".image_newline";

bool has(const std::string& name, std::string_view part) {
  return name.find(part) != std::string::npos;
}

// Keys of config.json that flags settle, under LLaVA's names. model_type becomes LLaVA's where it is the bare language
// model's.
nlohmann::json settings_of(const TrainConfig& c) {
  nlohmann::json out = nlohmann::json::object();
  if (!c.vision_tower.empty()) out["mm_vision_tower"] = c.vision_tower;
  if (c.mm_vision_select_layer) out["mm_vision_select_layer"] = *c.mm_vision_select_layer;
  if (!c.mm_vision_select_feature.empty()) out["mm_vision_select_feature"] = c.mm_vision_select_feature;
  if (!c.mm_projector_type.empty()) out["mm_projector_type"] = c.mm_projector_type;
  if (!c.image_aspect_ratio.empty()) out["image_aspect_ratio"] = c.image_aspect_ratio;
  if (!c.image_grid_pinpoints.empty()) out["image_grid_pinpoints"] = c.image_grid_pinpoints;
  if (!c.mm_patch_merge_type.empty()) out["mm_patch_merge_type"] = c.mm_patch_merge_type;
  out["tune_mm_mlp_adapter"] = c.tune_mm_mlp_adapter;
  out["freeze_mm_mlp_adapter"] = c.freeze_mm_mlp_adapter;
  if (c.model_max_length > 0) {  // the reference gives the model its tokenizer's
    out["tokenizer_model_max_length"] = c.model_max_length;
    out["tokenizer_padding_side"] = "right";
  }
  if (c.mm_projector_lr > 0) out["mm_projector_lr"] = c.mm_projector_lr;
  if (c.unfreeze_mm_vision_tower.value_or(false)) out["unfreeze_mm_vision_tower"] = true;
  return out;
}

// ml-fastvlm takes it from the config.json of a model that has its tower in it, and freezes the tower with all else in
// every stage that does not train the whole model.
bool tower_trains(const TrainConfig& c, const models::LlavaFolder& folder) {
  if (c.tune_mm_mlp_and_vision_tower) return true;
  if (c.unfreeze_mm_vision_tower) return *c.unfreeze_mm_vision_tower;
  const bool whole =
      !c.tune_mm_mlp_adapter && !c.freeze_backbone && !c.lora_enable && c.adapter.num_virtual_tokens == 0;
  return whole && folder.llava.tower.fastvit && models::has_tower_inside(folder.config);
}

// The flag's, else config.json's, where the reference takes any text that it does not know for square.
image::Aspect aspect_of(const TrainConfig& c, const models::LlavaFolder& folder) {
  if (folder.llava.tiles) return image::Aspect::anyres;
  if (!c.image_aspect_ratio.empty()) return image::aspect_from_name(c.image_aspect_ratio);
  const auto found = folder.config.find("image_aspect_ratio");
  const bool pad = found != folder.config.end() && *found == "pad";
  return pad ? image::Aspect::pad : image::Aspect::square;
}

void check_tiles(const TrainConfig& c, const models::LlavaFolder& folder) {
  const bool placed = !c.mm_patch_merge_type.empty() && c.mm_patch_merge_type != "flat";
  if (folder.llava.tiles || (!placed && c.image_grid_pinpoints.empty())) return;
  throw RequestError("--{} is for pictures in tiles: pass --image_aspect_ratio anyres",
                     placed ? "mm_patch_merge_type" : "image_grid_pinpoints");
}

class LlavaRecipe final : public Recipe {
 public:
  explicit LlavaRecipe(const TrainConfig& config)
      : config_(config),
        folder_(models::read_llava_folder(
            {config.version, config.vision_tower, config.hub_dir, settings_of(config), models::trainer_defaults()})) {
    check_transformers_form();
    if (config.model_max_length > 0) folder_.llava.max_length = config.model_max_length;
    check_length();
    if (config.mm_vision_tower_lr > 0 && !tower_trains_) {
      throw RequestError("--mm_vision_tower_lr is the rate of a tower that trains: pass --unfreeze_mm_vision_tower");
    }
    check_tiles(config, folder_);
    io::SourcePtr files = models::open_llava_weights(folder_);
    for (const auto& tensor : files->tensors()) {
      const auto own = models::llava_layout_name(tensor.name, folder_.llava);
      newline_in_files_ = newline_in_files_ || (own && own->ends_with(kNewline));
    }
    auto& language = folder_.llava.language;
    language.fit_to_weights(*files);
    language.set_vocab_size(std::max(language.vocab_size(), text::load_tokenizer(folder_.folder).size()));
    std::vector<io::SourcePtr> sources;
    auto add = [&](const io::SourcePtr& source) {
      sources.push_back(std::make_shared<io::RenamedSource>(source, [own = folder_.llava](std::string_view name) {
        return models::llava_layout_name(std::string(name), own);
      }));
    };
    // A projector that was trained alone comes before what the model's files may hold.
    if (!config.pretrain_mm_mlp_adapter.empty()) add(io::open_weights(config.pretrain_mm_mlp_adapter));
    add(files);
    weights_ = std::make_shared<io::OverlaySource>(sources);
  }

  void build(nn::ModelLayout& layout) override { model_.emplace(layout, folder_.llava); }
  text::Tokenizer load_tokenizer() const override { return text::load_tokenizer(folder_.folder); }
  io::SourcePtr open_weights() const override { return weights_; }
  std::optional<std::string> layout_name(const std::string& name) const override {
    return models::llava_layout_name(name, folder_.llava);
  }
  bool may_be_new(const nn::ParamState& p) const override {
    return has(p.name, ".lora_") || p.name.ends_with(kNewline) ||
           (has(p.name, kProjector) && config_.pretrain_mm_mlp_adapter.empty());
  }

  // LLaVA's find_all_linear_names: every linear layer of the language model but the head.
  std::optional<adapt::LoraConfig> adapters(const nn::ModelLayout& layout) const override {
    if (!config_.lora_enable || config_.lora_r == 0) return std::nullopt;
    auto out = lora_config(config_.lora_r, config_.lora_alpha, config_.lora_dropout, config_.lora_target_modules);
    if (config_.lora_target_modules == "all-linear") name_language_layers(layout, out);
    apply(config_.adapter, out, config_.total_steps());
    // PEFT loads the projector with an adapter over transformers' model; LLaVA's own loader takes it from another file.
    std::replace(out.modules_to_save.begin(), out.modules_to_save.end(), std::string("multi_modal_projector"),
                 std::string("mm_projector"));
    if (transformers_ && !config_.freeze_mm_mlp_adapter && out.modules_to_save.empty()) {
      out.modules_to_save = {"mm_projector"};
    }
    return out;
  }

  static void name_language_layers(const nn::ModelLayout& layout, adapt::LoraConfig& out) {
    out.targets.clear();
    out.match = adapt::TargetMatch::exact;
    for (const auto& linear : layout.layers()) {
      if (linear->kind != nn::LayerKind::linear) continue;
      const std::string name = linear->name + ".";
      if (!has(name, kProjector) && !has(name, kTower) && linear->name != "lm_head")
        out.targets.push_back(linear->name);
    }
  }

  void mark_trained(nn::ModelLayout& layout) const override {
    for (const auto& p : layout.params()) p->trainable = !p->buffer && trains(layout, *p);
    if (layout.trainable_elements() == 0) {
      throw RequestError("nothing trains with these flags: --freeze_backbone, --freeze_mm_mlp_adapter, --lora_enable");
    }
  }

  // Without decay: biases, and what is a norm for the reference, whose list knows LLaMA's norm and not its kin's.
  ParamGroups param_groups(const nn::ModelLayout& layout) const override {
    const auto& language = transformers_ ? folder_.config.at("text_config") : folder_.config;
    const auto type = language.value("model_type", std::string());
    const bool kin = has(type, "mistral") || has(type, "qwen");
    const auto key = [kin](const nn::ParamState& p) -> std::size_t {
      const std::size_t part = has(p.name, kProjector) ? 2 : has(p.name, kTower) ? 4 : 0;
      const bool norm = has(p.name, "norm") && (part == 4 || !kin);
      return part + (norm || has(p.name, "bias") ? 1 : 0);
    };
    const double projector = config_.mm_projector_lr > 0 ? config_.mm_projector_lr : config_.lr;
    const double tower = config_.mm_vision_tower_lr > 0 ? config_.mm_vision_tower_lr : config_.lr;
    const std::array<shard::ParamGroup, 6> all{{{"all", config_.lr, config_.weight_decay},
                                                {"all_no_decay", config_.lr, 0.0, false},
                                                {"mm_projector", projector, config_.weight_decay},
                                                {"mm_projector_no_decay", projector, 0.0, false},
                                                {"vision_tower", tower, config_.weight_decay},
                                                {"vision_tower_no_decay", tower, 0.0, false}}};
    std::array<std::size_t, 6> number{};
    std::array<bool, 6> used{};
    for (const auto& p : layout.params()) {
      if (p->trainable) used.at(key(*p)) = true;
    }
    ParamGroups out;
    for (std::size_t i = 0; i < all.size(); ++i) {
      number.at(i) = out.groups.size();
      if (used.at(i)) out.groups.push_back(all.at(i));
    }
    out.group_of = [key, number](const nn::ParamState& p) { return number.at(key(p)); };
    return out;
  }

  data::InputSpec input_spec(std::int64_t model_max_length) const override {
    data::InputSpec spec;
    spec.sam_size = 0;
    data::describe_tower(transformers_ ? folder_.folder : folder_.tower, folder_.llava.tower, spec);
    spec.aspect = aspect_of(config_, folder_);
    spec.tiles = folder_.llava.tiles;
    spec.image_patches = folder_.llava.tower.tokens();
    spec.model_max_length = model_max_length;
    return spec;
  }

  std::vector<data::TowerFeatures> towers() const override {
    if (folder_.llava.tower.fastvit) return {};  // features are stored of CLIP
    return {data::describe_clip(folder_.llava.tower, input_spec(0))};
  }

  shard::Workload workload(const nn::ModelLayout& layout, const BatchShape& shape,
                           std::int64_t element) const override {
    return llava_workload(layout, folder_.llava, shape, element);
  }

  StepLosses forward(const Batch& batch, nn::UnitRunner& runner, const nn::ForwardContext& ctx,
                     const LossOptions& options) const override {
    models::LlavaForwardOptions forward;
    forward.label_smoothing = config_.optimization.label_smoothing_factor;
    forward.noise_alpha = config_.optimization.neftune_noise_alpha;
    if (options.scale) forward.target_tokens = options.scale->ce_tokens;
    const auto out = model_->forward(of_family<models::LlavaBatch>(batch), runner, ctx, forward);
    const at::Tensor loss = options.weights.ce == 1.0 ? out.loss : out.loss.mul(options.weights.ce);
    const at::Tensor none = at::zeros({}, loss.options().requires_grad(false));
    return {loss, loss, none, none, none};
  }

  nlohmann::json exported_config() const override {
    auto json = folder_.config;
    const auto& llava = folder_.llava;
    if (transformers_) {
      json["text_config"]["vocab_size"] = llava.language.vocab_size();
      return json;
    }
    json["vocab_size"] = llava.language.vocab_size();
    json["mm_hidden_size"] = llava.tower.width();
    json["mm_projector_type"] = llava.projector_type;
    json["use_mm_proj"] = true;
    if (!json.contains("image_aspect_ratio")) json["image_aspect_ratio"] = "square";
    if (!json.contains("mm_patch_merge_type")) json["mm_patch_merge_type"] = "flat";
    // Apple's loader makes a tower of random weights, and takes the model's own only where this says so.
    if (llava.tower.fastvit) json["unfreeze_mm_vision_tower"] = true;
    // A bare language model has become a LLaVA.
    constexpr std::array<std::array<const char*, 3>, 4> kTypes{{{"llama", "llava_llama", "LlavaLlamaForCausalLM"},
                                                                {"mistral", "llava_mistral", "LlavaMistralForCausalLM"},
                                                                {"qwen2", "llava_qwen2", "LlavaQwen2ForCausalLM"},
                                                                {"mpt", "llava_mpt", "LlavaMptForCausalLM"}}};
    for (const auto& [bare, own, architecture] : kTypes) {
      if (json.value("model_type", std::string()) != bare) continue;
      json["model_type"] = own;
      json["architectures"] = {architecture};
    }
    return json;
  }
  bool transformers_form() const override { return transformers_; }
  std::string file_name(const std::string& name) const override {
    return transformers_ ? named(models::llava_hf_name(name, folder_.llava), name) : name;
  }
  std::string module_name(const std::string& name) const override {
    return transformers_ ? named(models::llava_hf_module_name(name, folder_.llava), name) : name;
  }
  const std::filesystem::path& folder() const override { return folder_.folder; }
  const std::filesystem::path& tower_folder() const override { return folder_.tower; }

 private:
  // A picture comes before the first answer, so none would be left.
  void check_length() const {
    const auto most = folder_.llava.max_length;
    const auto picture = folder_.llava.tower.tokens();
    if (most == 0 || most > picture) return;
    throw RequestError("--model_max_length {} leaves no place for an answer behind a picture of {} positions", most,
                       picture);
  }

  static std::string named(const std::optional<std::string>& found, const std::string& name) {
    if (!found) throw RunError("transformers' form has no name for '{}'", name);
    return *found;
  }

  // Its names for weights have places for those of LLaMA's kin.
  void check_transformers_form() const {
    if (!transformers_) return;
    if (folder_.llava.language.base() != "model") {
      throw RequestError(
          "--version {}: config.json is in transformers' form; in that form --recipe llava trains llama, mistral or "
          "qwen2, and mpt in LLaVA's own form",
          config_.version);
    }
    for (const char* part : {"text_config", "vision_config"}) {
      if (folder_.config.contains(part)) continue;
      throw RequestError(
          "--version {0}: config.json has no {1}; transformers writes its own default out: "
          "AutoConfig.from_pretrained('{0}').save_pretrained('{0}')",
          config_.version, part);
    }
    if (!config_.vision_tower.empty()) {
      throw RequestError("--vision_tower {}: {} is in transformers' form, and its tower is part of it",
                         config_.vision_tower, config_.version);
    }
  }

  bool trains(const nn::ModelLayout& layout, const nn::ParamState& p) const {
    if (layout.unit(p.unit).fused) return true;  // adapters
    const bool projector = has(p.name, kProjector);
    if (projector) return !config_.freeze_mm_mlp_adapter;
    if (has(p.name, kTower)) return tower_trains_ && !layout.unit(p.unit).idle;
    const bool newline = p.name.ends_with(kNewline);
    if (newline && layout.unit(p.unit).idle) return false;  // there are no tiles
    if (config_.tune_mm_mlp_adapter || config_.tune_mm_mlp_and_vision_tower) return false;
    // The reference freezes what it has loaded before it makes what is new.
    if (newline && !newline_in_files_) return true;
    if (config_.lora_enable || config_.adapter.num_virtual_tokens > 0) return false;
    return !config_.freeze_backbone || p.name == "lm_head.weight";
  }

  TrainConfig config_;
  models::LlavaFolder folder_;
  bool tower_trains_ = tower_trains(config_, folder_);
  bool transformers_ = models::is_transformers_llava(folder_.config);  // else LLaVA's own form
  bool newline_in_files_ = false;
  io::SourcePtr weights_;
  std::optional<models::LlavaModel> model_;
};

}  // namespace

std::unique_ptr<Recipe> make_llava_recipe(const TrainConfig& config) {
  return std::make_unique<LlavaRecipe>(config);
}

}  // namespace tessera::train
