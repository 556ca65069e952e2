#include "support/lisa_folder.hpp"

#include <fmt/format.h>

#include "support/support.hpp"

namespace tessera::testing_support {

namespace {

std::string model_config(const LisaSizes& s) {
  return fmt::format(
      R"({{
  "model_type": "llava", "architectures": ["LISAForCausalLM"], "vocab_size": {}, "hidden_size": {},
  "intermediate_size": {}, "num_hidden_layers": 2, "num_attention_heads": {}, "num_key_value_heads": {},
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 1024, "initializer_range": 0.1,
  "hidden_act": "silu", "tie_word_embeddings": false,
  "mm_vision_tower": "clip", "mm_hidden_size": {}, "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
  "mm_use_im_start_end": true, "out_dim": {}, "train_mask_decoder": true,
)",
      s.vocab, s.hidden, s.inner, s.heads, s.heads, s.clip_width, s.sam_width);
}

std::string sam_config(const LisaSizes& s) {
  return fmt::format(
      R"("sam_config": {{"image_size": {}, "patch_size": 8, "embed_dim": {}, "depth": 2, "num_heads": 2, "mlp_ratio": {},
    "global_attn_indexes": [1], "window_size": {}, "prompt_embed_dim": {}, "mask_in_chans": 16, "decoder_depth": 2,
    "decoder_mlp_dim": {}, "decoder_num_heads": {}, "num_multimask_outputs": 3, "iou_head_depth": 3,
    "iou_head_hidden_dim": {}, "norm_eps": 1e-6}}
}})",
      s.sam_image, s.sam_width, s.mlp_ratio, s.window, s.sam_width, s.decoder_inner, s.decoder_heads, s.sam_width);
}

std::string clip_config(const LisaSizes& s) {
  return fmt::format(
      R"({{
  "model_type": "clip_vision_model", "hidden_size": {}, "intermediate_size": {}, "num_hidden_layers": 3,
  "num_attention_heads": 2, "image_size": {}, "patch_size": 8, "num_channels": 3, "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5, "initializer_range": 0.1
}})",
      s.clip_width, s.clip_inner, s.clip_image);
}

std::string processor_config(const LisaSizes& s) {
  return fmt::format(
      R"({{"size": {{"shortest_edge": {0}}}, "crop_size": {{"height": {0}, "width": {0}}},
  "do_resize": true, "do_center_crop": true, "do_normalize": true, "resample": 3,
  "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}})",
      s.clip_image);
}

}  // namespace

void write_lisa_folder(const std::filesystem::path& folder, const LisaSizes& sizes,
                       const std::filesystem::path& tokenizer_model) {
  write_file(folder / "config.json", model_config(sizes) + "  " + sam_config(sizes));
  write_file(folder / "clip/config.json", clip_config(sizes));
  write_file(folder / "clip/preprocessor_config.json", processor_config(sizes));
  std::filesystem::copy_file(tokenizer_model, folder / "tokenizer.model");
}

}  // namespace tessera::testing_support
