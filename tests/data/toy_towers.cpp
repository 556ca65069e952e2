#include "data/toy_towers.hpp"

#include <ATen/core/Tensor.h>

#include <algorithm>

#include "data/toy.hpp"
#include "tessera/io/safetensors.hpp"
#include "tessera/models/lisa_folder.hpp"

namespace tessera::data::toy {

namespace fs = std::filesystem;

void write_model_with_towers(const fs::path& folder, std::uint64_t seed) {
  fs::copy(model_folder(), folder, fs::copy_options::recursive);
  const auto described = models::read_lisa_folder({folder, "", "", ""});
  nn::ModelLayout layout;
  const models::LisaModel model(layout, described.lisa);
  nn::materialize(layout, seed);
  std::vector<nn::Param> towers;
  for (const auto& param : layout.params()) {
    const bool clip = param->name.find(".vision_tower.") != std::string::npos;
    if (clip || param->name.find(".image_encoder.") != std::string::npos) towers.push_back(param);
  }
  std::vector<io::TensorInfo> table;
  for (const auto& param : towers) table.push_back({param->name, io::Elem::f32, param->shape});
  std::sort(table.begin(), table.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  io::SafetensorsWriter writer(folder / "model.safetensors", table);
  for (const auto& param : towers) {
    const at::Tensor value = param->value().detach().contiguous();
    writer.write(param->name, 0, value.numel(), value.const_data_ptr<float>());
  }
  writer.commit();
}

TowerRequest both_towers(const fs::path& folder) {
  TowerRequest request;
  request.towers = {"clip", "sam"};
  request.model = folder.string();
  return request;
}

}  // namespace tessera::data::toy
