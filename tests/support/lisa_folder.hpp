#pragma once
#include <filesystem>

namespace tessera::testing_support {

/// Sizes of a miniature LISA: LLaMA of two layers, CLIP of three, SAM of two; widths in elements, images in pixels.
struct LisaSizes {
  int vocab, hidden, inner, heads;
  int clip_width, clip_inner, clip_image;
  int sam_width, sam_image, window, decoder_inner, decoder_heads;
  const char* mlp_ratio;
};

inline constexpr LisaSizes kSmallLisa{100, 24, 40, 2, 16, 24, 16, 16, 32, 3, 24, 2, "2.0"};
inline constexpr LisaSizes kSceneLisa{640, 48, 80, 4, 32, 64, 32, 32, 64, 5, 64, 4, "4.0"};  ///< learns scenes of 64 px

/// Writes config.json, clip/ and the tokenizer of a LISA without weights.
void write_lisa_folder(const std::filesystem::path& folder, const LisaSizes& sizes,
                       const std::filesystem::path& tokenizer_model);

}  // namespace tessera::testing_support
