#include "sam_names.hpp"

#include <array>
#include <charconv>

namespace tessera::models {
namespace {

struct Rename {
  std::string_view from, to;
};

// In this order; each is tried on the result of the ones before.
constexpr std::array kRenames{
    Rename{"prompt_encoder.mask_embed.conv1.", "prompt_encoder.mask_downscaling.0."},
    Rename{"prompt_encoder.mask_embed.layer_norm1.", "prompt_encoder.mask_downscaling.1."},
    Rename{"prompt_encoder.mask_embed.conv2.", "prompt_encoder.mask_downscaling.3."},
    Rename{"prompt_encoder.mask_embed.layer_norm2.", "prompt_encoder.mask_downscaling.4."},
    Rename{"prompt_encoder.mask_embed.conv3.", "prompt_encoder.mask_downscaling.6."},
    Rename{"prompt_encoder.point_embed.", "prompt_encoder.point_embeddings."},
    Rename{"vision_encoder.patch_embed.projection.", "image_encoder.patch_embed.proj."},
    Rename{"vision_encoder.neck.conv1.", "image_encoder.neck.0."},
    Rename{"vision_encoder.neck.layer_norm1.", "image_encoder.neck.1."},
    Rename{"vision_encoder.neck.conv2.", "image_encoder.neck.2."},
    Rename{"vision_encoder.neck.layer_norm2.", "image_encoder.neck.3."},
    Rename{"vision_encoder.layers.", "image_encoder.blocks."},
    Rename{"vision_encoder.", "image_encoder."},
    Rename{"mask_decoder.upscale_conv1.", "mask_decoder.output_upscaling.0."},
    Rename{"mask_decoder.upscale_layer_norm.", "mask_decoder.output_upscaling.1."},
    Rename{"mask_decoder.upscale_conv2.", "mask_decoder.output_upscaling.3."},
    Rename{".layer_norm_final_attn.", ".norm_final_attn."},
    Rename{".layer_norm", ".norm"},
};

void replace(std::string& name, std::string_view from, std::string_view to) {
  const std::size_t at = name.find(from);
  if (at != std::string::npos) name.replace(at, from.size(), to);
}

/// proj_in, layers.0 … layers.depth-3, proj_out are facebook's layers.0 … layers.depth-1.
void rename_perceptron(std::string& name, std::int64_t depth) {
  constexpr std::string_view kLayers = ".layers.";
  const std::size_t at = name.find(kLayers);
  if (at != std::string::npos) {
    const std::size_t begin = at + kLayers.size();
    const std::size_t end = name.find('.', begin);
    int index = 0;
    std::from_chars(name.data() + begin, name.data() + end, index);
    name.replace(begin, end - begin, std::to_string(index + 1));
  }
  replace(name, ".proj_in.", ".layers.0.");
  replace(name, ".proj_out.", kLayers.data() + std::to_string(depth - 1) + ".");
}

}  // namespace

bool has_transformers_sam_names(const io::TensorSource& source) {
  const auto& all = source.tensors();
  return std::any_of(all.begin(), all.end(),
                     [](const io::TensorInfo& t) { return t.name.starts_with("vision_encoder."); });
}

std::optional<std::string> facebook_sam_name(std::string name, std::int64_t iou_depth) {
  if (name == "prompt_encoder.shared_embedding.positional_embedding") return std::nullopt;
  if (name == "shared_image_embedding.positional_embedding") {
    return "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix";
  }
  if (name.find("iou_prediction_head") != std::string::npos) {
    rename_perceptron(name, iou_depth);
    return name;
  }
  if (name.find("output_hypernetworks_mlps") != std::string::npos) {
    rename_perceptron(name, 3);
    return name;
  }
  for (const Rename& rename : kRenames) replace(name, rename.from, rename.to);
  return name;
}

}  // namespace tessera::models
