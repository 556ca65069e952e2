#pragma once
/// LisaBatch: one micro-batch as LISA's collate makes it; what `tessera forward` records and what the loader delivers.
///
/// Shapes: I = images, C = conversations (C >= I; image b owns rows offset[b] … offset[b+1]-1), L = padded text length,
/// S = SAM's image size, s = CLIP's image size, n_b = masks of image b; P, H, D, h, w as in models/lisa.hpp and
/// sam.hpp. Source: dvlab-research/LISA utils/dataset.py (collate_fn).
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace tessera::models {

struct ImageSize {
  std::int64_t height = 0;
  std::int64_t width = 0;
};

struct LisaBatch {
  at::Tensor images;                       ///< f32 [I,3,S,S], normalised and padded for SAM
  at::Tensor images_clip;                  ///< f32 [I,3,s,s]
  at::Tensor sam_features;                 ///< [I,D,h,w] of SAM's encoder, instead of `images`: it is then not run
  at::Tensor clip_features;                ///< [I,P,H] of the tower, instead of `images_clip`: likewise
  at::Tensor input_ids;                    ///< i64 [C,L]; -200 stands for the image
  at::Tensor labels;                       ///< i64 [C,L]; -100 ignored
  at::Tensor attention_mask;               ///< bool [C,L]
  std::vector<std::int64_t> offset;        ///< [I+1]
  std::vector<ImageSize> resize;           ///< [I] size after resizing, before padding
  std::vector<ImageSize> original;         ///< [I] size of the label, i.e. of the original image
  std::vector<at::Tensor> masks;           ///< [I] f32 [n_b, H_b, W_b]; n_b may be 0
  std::vector<std::uint64_t> sample_keys;  ///< [C] names each conversation; dropout depends on it, not on the rank
  std::int64_t images_count() const { return static_cast<std::int64_t>(offset.size()) - 1; }
};

}  // namespace tessera::models
