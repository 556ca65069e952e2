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
    config.llama.vocab_size = 32003;
    config.llama.hidden_size = preset.hidden;
    config.llama.intermediate_size = preset.inner;
    config.llama.layers = preset.layers;
    config.llama.heads = preset.heads;
    config.llama.kv_heads = preset.heads;
    config.llama.head_dim = preset.hidden / preset.heads;
    config.llama.rms_norm_eps = preset.rms_eps;
    config.llama.rope.dim = config.llama.head_dim;
    config.clip.image_size = preset.clip_image;
    config.projector_type = preset.projector;
    config.seg_token_id = 32000;
    return config;
  }
  const std::string near = nearest_name(name, preset_names());
  throw RequestError("no built-in description '{}'{}; known are {}", name,
                     near.empty() ? "" : "; did you mean '" + near + "'", fmt::join(preset_names(), ", "));
}

}  // namespace tessera::models
