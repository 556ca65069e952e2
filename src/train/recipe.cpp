#include "tessera/train/recipe.hpp"

#include "train/recipes.hpp"

namespace tessera::train {

namespace {

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> out;
  std::size_t begin = 0;
  while (begin <= text.size()) {
    const auto end = std::min(text.find(',', begin), text.size());
    if (end > begin) out.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

}  // namespace

adapt::LoraConfig lora_config(std::int64_t rank, double alpha, double dropout, const std::string& targets) {
  adapt::LoraConfig out;
  out.rank = rank;
  out.alpha = alpha;
  out.dropout = dropout;
  out.targets = split_list(targets);
  return out;
}

std::unique_ptr<Recipe> make_recipe(const TrainConfig& config) {
  return config.recipe == "llava" ? make_llava_recipe(config) : make_lisa_recipe(config);
}

}  // namespace tessera::train
