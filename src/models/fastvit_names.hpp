#pragma once
/// The way back from our names of a FastViT's tensors.
#include <string>

#include "tessera/models/fastvit.hpp"

namespace tessera::models {

/// timm's name ("stem.0.…", "stages.1.blocks.0.…") for ours ("model.patch_embed.0.…"), of a tensor or of a layer, and
/// of what an adapter adds to a layer.
std::string timm_name(const std::string& name, const FastVitConfig& config);

}  // namespace tessera::models
