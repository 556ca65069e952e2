// config.json of a model folder, read as every kind of model; whatever a reader takes becomes a model's shapes.
#include "fuzz/input_file.hpp"
#include "models/tower_folder.hpp"
#include "tessera/core/error.hpp"
#include "tessera/models/lisa.hpp"
#include "tessera/models/llava.hpp"
#include "tessera/models/llava_folder.hpp"
#include "tessera/models/sam.hpp"

namespace {

using namespace tessera;

constexpr std::int64_t kMostLayers = 16;  ///< whose shapes are made: more of them teach nothing

template <class Action>
void attempt(Action action) {
  try {
    action();
  } catch (const RequestError&) {  // the one answer a broken file may get
  }
}

std::int64_t layers_of(const models::LanguageConfig& config) {
  return std::visit([](const auto& family) { return family.layers; }, config.family);
}

void build(const models::LlavaConfig& config) {
  if (layers_of(config.language) > kMostLayers || config.tower.clip.layers > kMostLayers) return;
  nn::ModelLayout layout;
  const models::LlavaModel model(layout, config);
  (void)layout.total_elements();
}

void build(const models::SamConfig& config) {
  if (config.depth > kMostLayers || config.decoder_depth > kMostLayers || config.num_multimask_outputs > kMostLayers)
    return;
  nn::ModelLayout layout;
  const models::SamImageEncoder encoder(layout, config, "image_encoder");
  const models::SamPromptEncoder prompts(nn::Scope(layout, layout.add_unit("p"), "prompt_encoder"), config);
  const models::SamMaskDecoder decoder(nn::Scope(layout, layout.add_unit("d"), "mask_decoder"), config);
  (void)layout.total_elements();
}

void build(const models::LisaConfig& config) {
  if (layers_of(config.language) > kMostLayers || config.tower.clip.layers > kMostLayers ||
      config.sam.depth > kMostLayers)
    return;
  nn::ModelLayout layout;
  const models::LisaModel model(layout, config);
  (void)layout.total_elements();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::InputFolder folder("config.json");
  const auto& path = folder.put(data, size);
  attempt([&] {
    const nlohmann::json json = models::read_folder_config(path, "--model");
    (void)models::is_llava_config(json);
    attempt([&] { (void)models::tower_name(json, path); });
    attempt([&] { (void)models::LanguageConfig::from_json(json); });
    attempt([&] { build(models::LlavaConfig::from_transformers(json)); });
    attempt([&] { build(models::LlavaConfig::from_original(json, models::vision_part(json))); });
    attempt([&] { build(models::LisaConfig::from_json(json, models::vision_part(json))); });
    attempt([&] { build(models::SamConfig::from_json(json)); });
    attempt([&] { build(models::SamConfig::from_transformers(json)); });
  });
  return 0;
}
