#pragma once
/// LlavaBatch: rows of text with places for images, and the images; what `tessera forward` records and what the loader
/// delivers.
///
/// Shapes: B rows, L padded text length, N images (or their tiles) of S x S, P tokens an image, C the tower's channels.
/// Source: haotian-liu/LLaVA llava/train/train.py (DataCollatorForSupervisedDataset).
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "tessera/models/tiles.hpp"

namespace tessera::models {

struct LlavaBatch {
  at::Tensor input_ids;       ///< i64 [B,L], right or left padded
  at::Tensor attention_mask;  ///< bool [B,L]; undefined: nothing is padded
  at::Tensor labels;          ///< i64 [B,L], -100 ignored; may be undefined
  /// f32 [N,3,S,S] in row order. Original form: a row with k placeholders takes the next k, a row without takes one and
  /// uses none of it. Transformers' form: none for a row without.
  at::Tensor images;
  /// Pictures in tiles: of `images` the first `tiles` are the first picture's, and so on; N is their sum. What is said
  /// above of images then holds for pictures. Empty: each image is a picture, whole.
  std::vector<TiledPicture> pictures;
  at::Tensor image_features;               ///< [N,P,C] of the tower, instead of `images`: it is then not run
  bool expanded = false;                   ///< transformers' form
  std::int64_t max_length = 0;             ///< original form: rows are cut to it; 0: to the config's max_length
  std::vector<std::uint64_t> sample_keys;  ///< one per row, or none
};

}  // namespace tessera::models
