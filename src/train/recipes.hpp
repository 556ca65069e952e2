#pragma once
// The recipes, one file each.
#include <memory>

#include "tessera/core/error.hpp"
#include "tessera/train/recipe.hpp"

namespace tessera::train {

std::unique_ptr<Recipe> make_lisa_recipe(const TrainConfig& config);
std::unique_ptr<Recipe> make_llava_recipe(const TrainConfig& config);

// The batch of one family. Throws RunError for another's.
template <class Own>
const Own& of_family(const Batch& batch) {
  const auto* own = std::get_if<Own>(&batch);
  if (own == nullptr) throw RunError("train: a batch of another family of models");
  return *own;
}

}  // namespace tessera::train
