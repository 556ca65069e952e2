#pragma once
/// Built-in descriptions: the sizes of known models, without any weights.
#include <string>
#include <string_view>
#include <vector>

#include "tessera/models/lisa.hpp"
#include "tessera/models/llava.hpp"

namespace tessera::models {

/// "lisa-7b", "lisa-13b": what train_ds.py builds from LLaVA-Lightning, vocabulary 32003. "lisa-7b-llava1.5",
/// "lisa-13b-llava1.5": on CLIP at 336 px with the two-layer projector.
std::vector<std::string> preset_names();
/// Throws RequestError naming the nearest known name.
LisaConfig lisa_preset(std::string_view name);

/// "llava-1.5-7b", "llava-1.5-13b": Vicuna 1.5 with CLIP ViT-L/14 at 336 px and the two-layer projector.
/// "qwen1.5-4b-llava": the same tower and projector on Qwen1.5-4B. "fastvlm-0.5b", "fastvlm-1.5b", "fastvlm-7b":
/// Apple's FastVLM, FastViTHD (folded) at 1024 px with the two-layer projector on Qwen2.
std::vector<std::string> llava_preset_names();
/// Throws RequestError naming the nearest known name.
LlavaConfig llava_preset(std::string_view name);

}  // namespace tessera::models
