#pragma once
// Pictures of what a model answered: image, target and prediction side by side.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>

#include "tessera/data/loader.hpp"

namespace tessera::train {

// Writes `dir/<number>_<image>_<k>.png` for each mask k, and its question beside it as .txt. `predicted`: logits
// [n, H, W] of the item's masks.
void write_overlay(const std::filesystem::path& dir, std::int64_t number, const data::EvalItem& item,
                   const at::Tensor& predicted);

}  // namespace tessera::train
