#include "train/overlays.hpp"

#include <fmt/format.h>

#include <array>

#include "tessera/core/file.hpp"
#include "tessera/image/write.hpp"

namespace tessera::train {

namespace {

image::Mask mask_of(const at::Tensor& values, float above) {
  const at::Tensor plane = values.contiguous();
  image::Mask mask(plane.size(0), plane.size(1));
  const auto* data = plane.const_data_ptr<float>();
  for (std::int64_t i = 0; i < plane.numel(); ++i)
    mask.data[static_cast<std::size_t>(i)] = data[i] > above && data[i] != 255.0F;
  return mask;
}

std::string stem_of(const data::EvalItem& item, std::int64_t number, std::int64_t k) {
  return fmt::format("{:04}_{}_{}", number, std::filesystem::path(item.sample.image_name).stem().string(), k);
}

}  // namespace

void write_overlay(const std::filesystem::path& dir, std::int64_t number, const data::EvalItem& item,
                   const at::Tensor& predicted) {
  make_directories(dir);
  const auto picture = image::decode({item.image.data(), item.image.size()}, item.sample.image_name);
  const auto logits = predicted.to(c10::Device(c10::DeviceType::CPU), at::kFloat);
  for (std::int64_t k = 0; k < logits.size(0); ++k) {
    const std::array<image::Image, 3> row{
        picture, image::overlay(picture, mask_of(item.batch.masks.at(0)[k], 0.5F), image::kGreen),
        image::overlay(picture, mask_of(logits[k], 0.0F), image::kRed)};
    const auto stem = stem_of(item, number, k);
    write_file(dir / (stem + ".png"), image::encode_png(image::side_by_side(row, 4)));
    const auto at = static_cast<std::size_t>(k);
    const auto question = at < item.sample.questions.size() ? item.sample.questions[at] : std::string();
    write_file(dir / (stem + ".txt"), question + "\nfrom left: picture, target (green), prediction (red)\n");
  }
}

}  // namespace tessera::train
