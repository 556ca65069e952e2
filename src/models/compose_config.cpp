#include "compose_config.hpp"

#include "json_fields.hpp"
#include "tessera/core/json.hpp"
#include "tessera/image/preprocess.hpp"
#include "tessera/models/clip.hpp"
#include "tower_folder.hpp"

namespace tessera::models {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kProcessor = "LlavaProcessor";

json read_object(const fs::path& file) {
  const JsonView view = read_json(file);
  if (!view.is_object()) throw RequestError("{}: expected an object of settings", file.string());
  return view.raw();
}

/// What a saved model says of its own class and files, not of the model.
void drop_own_marks(json& config) {
  for (const char* key : {"architectures", "transformers_version", "_name_or_path", "auto_map", "dtype"}) {
    config.erase(key);
  }
}

bool keeps_class_token(const ComposeRequest& request) {
  return select_feature_from_name(request.select_feature) == SelectFeature::cls_patch;
}

const char* strategy(const ComposeRequest& request) {
  return keeps_class_token(request) ? "full" : "default";
}

/// CLIP's own processor at the tower's size, for a folder without preprocessor_config.json.
json default_preprocessor(std::int64_t size) {
  const image::ClipImageConfig clip;
  return {{"do_resize", true},
          {"size", {{"shortest_edge", size}}},
          {"resample", static_cast<int>(clip.resample)},
          {"do_center_crop", true},
          {"crop_size", {{"height", size}, {"width", size}}},
          {"do_rescale", true},
          {"rescale_factor", clip.rescale_factor},
          {"do_normalize", true},
          {"image_mean", clip.mean},
          {"image_std", clip.std},
          {"do_convert_rgb", true}};
}

json preprocessor(const fs::path& folder, std::int64_t size) {
  const fs::path file = folder / "preprocessor_config.json";
  json config = fs::exists(file) ? read_object(file) : default_preprocessor(size);
  const auto out =
      image::clip_output_size({2 * size, 3 * size}, image::clip_config_from_json(config.dump(), file.string()));
  if (out != image::Size{size, size}) {
    throw RequestError("{} makes pictures of {} x {}, the tower takes {} x {}", file.string(), out.height, out.width,
                       size, size);
  }
  // Early files name the class that CLIPImageProcessor was then.
  config.erase("feature_extractor_type");
  if (!config.contains("image_processor_type")) config["image_processor_type"] = "CLIPImageProcessor";
  config["processor_class"] = kProcessor;
  return config;
}

}  // namespace

json read_language_config(const fs::path& folder) {
  json config = read_folder_config(folder, "--language_model");
  const std::string where = (folder / "config.json").string();
  const std::string type = JsonFields(config, where).text("model_type", std::nullopt);
  if (type != "llama" && type != "mistral" && type != "qwen2") {
    throw RequestError("{}: a LLaVA is composed of llama, mistral or qwen2, not of model_type '{}'", where, type);
  }
  if (config.contains("quantization_config")) {
    throw RequestError("{}: the language model is quantised; compose its full-precision original", where);
  }
  return config;
}

json read_clip_config(const fs::path& folder) {
  const json config = read_folder_config(folder, "--vision_tower");
  const std::string where = (folder / "config.json").string();
  const std::string type = JsonFields(config, where).text("model_type", std::nullopt);
  if (type != "clip" && type != "clip_vision_model") {
    throw RequestError("{}: a LLaVA of transformers looks through a clip or clip_vision_model, not a '{}'", where,
                       type);
  }
  json vision = vision_part(config);
  if (!vision.is_object()) throw RequestError("{}: vision_config is no object", where);
  return vision;
}

std::string torch_name(io::Elem type) {
  return type == io::Elem::bf16 ? "bfloat16" : type == io::Elem::f16 ? "float16" : "float32";
}

json composed_config(const ComposeRequest& request, const json& language, const json& vision,
                     const ComposedTokens& tokens, io::Elem type) {
  json text = language;
  drop_own_marks(text);
  text["vocab_size"] = tokens.rows;
  text["torch_dtype"] = torch_name(type);
  json tower = vision;
  drop_own_marks(tower);
  tower["model_type"] = "clip_vision_model";
  tower["torch_dtype"] = torch_name(type);
  const ClipVisionConfig clip = ClipVisionConfig::from_json(vision);
  json config{{"architectures", {"LlavaForConditionalGeneration"}},
              {"model_type", "llava"},
              {"text_config", text},
              {"vision_config", tower},
              {"ignore_index", -100},
              {"image_token_index", tokens.image},
              {"image_seq_length", clip.patches() + (keeps_class_token(request) ? 1 : 0)},
              {"pad_token_id", tokens.pad},
              {"projector_hidden_act", "gelu"},
              {"multimodal_projector_bias", true},
              {"vision_feature_layer", request.select_layer},
              {"vision_feature_select_strategy", strategy(request)},
              {"tie_word_embeddings", text.value("tie_word_embeddings", json(false))},
              {"torch_dtype", torch_name(type)}};
  for (const char* key : {"bos_token_id", "eos_token_id"}) {
    if (language.contains(key)) config[key] = language.at(key);
  }
  return config;
}

std::map<std::string, json> processor_files(const ComposeRequest& request, const json& vision,
                                            const ComposedTokens& tokens) {
  const ClipVisionConfig clip = ClipVisionConfig::from_json(vision);
  std::map<std::string, json> files;
  files["preprocessor_config.json"] = preprocessor(request.vision_tower, clip.image_size);
  // The tower's class token is the one additional token; strategy `default` takes it off again.
  files["processor_config.json"] = {{"processor_class", kProcessor},
                                    {"image_token", request.image_token},
                                    {"patch_size", clip.patch_size},
                                    {"num_additional_image_tokens", 1},
                                    {"vision_feature_select_strategy", strategy(request)}};
  const fs::path generation = request.language_model / "generation_config.json";
  if (fs::exists(generation)) {
    json config = read_object(generation);
    if (!config.contains("pad_token_id")) config["pad_token_id"] = tokens.pad;
    files["generation_config.json"] = std::move(config);
  }
  return files;
}

}  // namespace tessera::models
