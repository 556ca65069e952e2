#include "tessera/train/recipe.hpp"

#include "tessera/core/split.hpp"
#include "train/recipes.hpp"

namespace tessera::train {

adapt::LoraConfig lora_config(std::int64_t rank, double alpha, double dropout, const std::string& targets) {
  adapt::LoraConfig out;
  out.rank = rank;
  out.alpha = alpha;
  out.dropout = dropout;
  out.targets = split_names(targets, ",");
  return out;
}

std::unique_ptr<Recipe> make_recipe(const TrainConfig& config) {
  return config.recipe == "llava" ? make_llava_recipe(config) : make_lisa_recipe(config);
}

}  // namespace tessera::train
