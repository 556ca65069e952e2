#include "tessera/models/presets.hpp"

#include <fmt/ranges.h>
#include <array>

#include "tessera/core/error.hpp"
#include "tessera/core/options.hpp"

namespace tessera::models {
namespace {

struct Preset {
  std::string_view name;
  std::int64_t hidden, inner, layers, heads;
  double rms_eps;
  std::int64_t clip_image;
  std::string_view projector;
};

// LLaMA-1 conversions carry rms_norm_eps 1e-6, Llama-2 and Vicuna 1.5 ones 1e-5.
constexpr std::array kPresets{
    Preset{"lisa-7b", 4096, 11008, 32, 32, 1e-6, 224, "linear"},
    Preset{"lisa-13b", 5120, 13824, 40, 40, 1e-5, 224, "linear"},
    Preset{"lisa-7b-llava1.5", 4096, 11008, 32, 32, 1e-5, 336, "mlp2x_gelu"},
    Preset{"lisa-13b-llava1.5", 5120, 13824, 40, 40, 1e-5, 336, "mlp2x_gelu"},
};

enum class Tower : std::uint8_t { clip_336, fastvit_hd };

struct LlavaPreset {
  std::string_view name;
  std::int64_t hidden, inner, layers, heads, kv_heads, vocab;
  double rms_eps, theta;
  bool qwen;  ///< biases on query, key and value
  bool tied;
  Tower tower;
};

constexpr std::array kLlavaPresets{
    LlavaPreset{"llava-1.5-7b", 4096, 11008, 32, 32, 32, 32000, 1e-5, 1e4, false, false, Tower::clip_336},
    LlavaPreset{"llava-1.5-13b", 5120, 13824, 40, 40, 40, 32000, 1e-5, 1e4, false, false, Tower::clip_336},
    LlavaPreset{"qwen1.5-4b-llava", 2560, 6912, 40, 20, 20, 151936, 1e-6, 5e6, true, false, Tower::clip_336},
    LlavaPreset{"fastvlm-0.5b", 896, 4864, 24, 14, 2, 151936, 1e-6, 1e6, true, true, Tower::fastvit_hd},
    LlavaPreset{"fastvlm-1.5b", 1536, 8960, 28, 12, 2, 151936, 1e-6, 1e6, true, true, Tower::fastvit_hd},
    LlavaPreset{"fastvlm-7b", 3584, 18944, 28, 28, 4, 152064, 1e-6, 1e6, true, false, Tower::fastvit_hd},
};

LlamaConfig llama_of(std::int64_t hidden, std::int64_t inner, std::int64_t layers, std::int64_t heads,
                     std::int64_t vocab, double rms_eps) {
  LlamaConfig config;
  config.vocab_size = vocab;
  config.hidden_size = hidden;
  config.intermediate_size = inner;
  config.layers = layers;
  config.heads = heads;
  config.kv_heads = heads;
  config.head_dim = hidden / heads;
  config.rms_norm_eps = rms_eps;
  config.rope.dim = config.head_dim;
  return config;
}

[[noreturn]] void refuse(std::string_view name, const std::vector<std::string>& known) {
  const std::string near = nearest_name(name, known);
  throw RequestError("no built-in description '{}'{}; known are {}", name,
                     near.empty() ? "" : "; did you mean '" + near + "'", fmt::join(known, ", "));
}

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

LisaConfig lisa_preset(std::string_view name) {
  for (const Preset& preset : kPresets) {
    if (preset.name != name) continue;
    LisaConfig config;
    config.language.family = llama_of(preset.hidden, preset.inner, preset.layers, preset.heads, 32003, preset.rms_eps);
    config.tower.clip.image_size = preset.clip_image;
    config.projector_type = preset.projector;
    config.seg_token_id = 32000;
    return config;
  }
  refuse(name, preset_names());
}

std::vector<std::string> llava_preset_names() {
  std::vector<std::string> names;
  for (const LlavaPreset& preset : kLlavaPresets) names.emplace_back(preset.name);
  return names;
}

LlavaConfig llava_preset(std::string_view name) {
  for (const LlavaPreset& preset : kLlavaPresets) {
    if (preset.name != name) continue;
    LlamaConfig language =
        llama_of(preset.hidden, preset.inner, preset.layers, preset.heads, preset.vocab, preset.rms_eps);
    language.rope.theta = preset.theta;
    language.kv_heads = preset.kv_heads;
    language.qkv_bias = preset.qwen;
    language.tie_word_embeddings = preset.tied;
    LlavaConfig config;
    config.language.family = language;
    if (preset.tower == Tower::fastvit_hd) {
      config.tower.fastvit = FastVitConfig::hd();
    } else {
      config.tower.clip.image_size = 336;
    }
    config.projector_type = "mlp2x_gelu";
    return config;
  }
  refuse(name, llava_preset_names());
}

}  // namespace tessera::models
