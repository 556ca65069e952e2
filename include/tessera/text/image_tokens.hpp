#pragma once
/// Prompts with image slots: `<image>` in the text becomes one placeholder id that the model later replaces by
/// features.
#include "tessera/text/tokenizer.hpp"

namespace tessera::text {

inline constexpr std::int64_t kImageId = -200;   ///< placeholder of one image
inline constexpr std::int64_t kIgnoreId = -100;  ///< label that takes no part in the loss
inline constexpr std::string_view kImageToken = "<image>";
inline constexpr std::string_view kImStartToken = "<im_start>";
inline constexpr std::string_view kImEndToken = "<im_end>";
inline constexpr std::string_view kSegToken = "[SEG]";

/// Splits at `<image>`, encodes each piece by itself, keeps one BOS and puts kImageId between the pieces.
/// Source: tokenizer_image_token of LLaVA and LISA (llava/mm_utils.py).
Encoding encode_with_images(const Tokenizer& tokenizer, std::string_view text);

/// `<image>` becomes `<im_start><image><im_end>` everywhere.
std::string wrap_image_tokens(std::string_view text);

}  // namespace tessera::text
