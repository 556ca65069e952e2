#include "tessera/train/recipe.hpp"

#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/image/preprocess.hpp"
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

void describe_tower(const std::filesystem::path& folder, const models::ClipVisionConfig& clip, data::InputSpec& spec) {
  spec.clip = image::with_size({}, clip.image_size);
  const auto processor = folder / "preprocessor_config.json";
  if (std::filesystem::exists(processor))
    spec.clip = image::clip_config_from_json(read_file(processor), processor.string());
  if (spec.clip.crop != image::Size{clip.image_size, clip.image_size}) {
    throw RequestError("{} crops to {} x {}, the tower takes {} pixels", processor.string(), spec.clip.crop.height,
                       spec.clip.crop.width, clip.image_size);
  }
}

std::unique_ptr<Recipe> make_recipe(const TrainConfig& config) {
  return config.recipe == "llava" ? make_llava_recipe(config) : make_lisa_recipe(config);
}

}  // namespace tessera::train
