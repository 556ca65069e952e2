#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/upsample_bilinear2d.h>

#include "tessera/models/sam.hpp"

namespace tessera::models {

at::Tensor postprocess_masks(const at::Tensor& low_res, std::int64_t image_size, ImageSize resized,
                             ImageSize original) {
  const at::Tensor square = at::upsample_bilinear2d(low_res.to(at::kFloat), {image_size, image_size}, false);
  const at::Tensor cut = square.narrow(2, 0, resized.height).narrow(3, 0, resized.width);
  return at::upsample_bilinear2d(cut, {original.height, original.width}, false);
}

at::Tensor mask_bce_sum(const at::Tensor& pred, const at::Tensor& target) {
  const at::Tensor pixels = at::binary_cross_entropy_with_logits(pred, target, {}, {}, at::Reduction::None);
  const double per_mask = 1.0 / static_cast<double>(pred.size(1) * pred.size(2));
  return pixels.sum().mul(per_mask);
}

at::Tensor mask_dice_sum(const at::Tensor& pred, const at::Tensor& target) {
  constexpr double kScale = 1000.0;
  constexpr double kEps = 1e-6;
  const at::Tensor p = pred.sigmoid().flatten(1);
  const at::Tensor t = target.flatten(1);
  const at::Tensor overlap = p.div(kScale).mul(t).sum(-1).mul(2.0).add(kEps);
  const at::Tensor whole = p.div(kScale).sum(-1).add(t.div(kScale).sum(-1)).add(kEps);
  return overlap.div(whole).mul(-1.0).add(1.0).sum();
}

}  // namespace tessera::models
