#include <ATen/ops/empty.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/command.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/json.hpp"
#include "tessera/image/processor.hpp"
#include "tessera/io/tensor_file.hpp"
#include "tessera/models/fastvit.hpp"

namespace tessera::cli {

namespace {

namespace fs = std::filesystem;

struct Flags {
  std::string kind = "clip";
  std::string image;
  std::int64_t size = 0;
  std::string aspect = "square";
  std::string model;
  std::string outputs;
};

// What a model folder says of its pictures: the processor's own file, else its FastViTHD, whose pixels lie in [0, 1].
// Nothing: CLIP ViT-L/14's.
image::ClipImageConfig processor_of(const fs::path& model) {
  if (const auto processor = image::find_processor(model)) return processor->clip;
  const auto path = model / "config.json";
  if (!fs::exists(path)) return {};
  const auto config = read_json(path).raw();
  if (models::is_fastvit_config(config))
    return image::unit_image_config(models::FastVitConfig::from_json(config).image_size);
  if (config.is_object() && config.contains("mm_vision_tower") && config.at("mm_vision_tower").is_string()) {
    const auto tower = models::FastVitConfig::from_name(config.at("mm_vision_tower").get<std::string>());
    if (tower) return image::unit_image_config(tower->image_size);
  }
  return {};
}

// The processor of --model, brought to --size; without a model CLIP ViT-L/14's.
image::PreprocessRequest request_of(const Flags& flags) {
  image::PreprocessRequest request;
  request.kind = flags.kind == "sam" ? image::PreprocessRequest::Kind::sam : image::PreprocessRequest::Kind::clip;
  request.size = flags.size > 0 ? flags.size : flags.kind == "sam" ? 1024 : 224;
  request.aspect = image::aspect_from_name(flags.aspect);
  if (flags.model.empty()) {
    request.clip = image::with_size({}, request.size);
    return request;
  }
  request.clip = processor_of(flags.model);
  if (flags.size > 0) request.clip = image::with_size(request.clip, flags.size);
  const auto config = fs::path(flags.model) / "config.json";
  if (request.aspect == image::Aspect::anyres && fs::exists(config)) {
    const auto json = read_json(config);
    if (json.has("image_grid_pinpoints")) {
      const auto& given = json.at("image_grid_pinpoints").raw();
      request.pinpoints = image::pinpoints_from_text(given.is_string() ? given.get<std::string>() : given.dump(),
                                                     request.clip.crop.height, config.string());
      // transformers has [height, width].
      if (json.text("model_type", "") == "llava_next") {
        for (auto& grid : request.pinpoints) std::swap(grid.height, grid.width);
      }
    }
  }
  return request;
}

at::ScalarType type_of(image::ArrayType type) {
  return type == image::ArrayType::u8 ? at::kByte : type == image::ArrayType::i64 ? at::kLong : at::kFloat;
}

}  // namespace

int run_preprocess(const std::vector<std::string>& args, Session&) {
  Flags flags;
  Options options("tessera preprocess", "An image as the vision towers get it, in a safetensors file.");
  options.add("kind", &flags.kind, "which tower's processor", {.group = "Input", .choices = {"clip", "sam"}});
  options.add("image", &flags.image, "JPEG, PNG or WebP file", {.group = "Input", .required = true});
  options.add("size", &flags.size, "side of the tower's pictures; 0: the model's, else 224 (clip) or 1024 (sam)",
              {.group = "Input", .unit = "pixels", .min = 0});
  options.add("aspect", &flags.aspect, "how CLIP's picture becomes a square",
              {.group = "Input", .choices = {"square", "pad", "anyres"}});
  options.add(
      "model", &flags.model,
      "folder with preprocessor_config.json, or config.json that names a mobileclip tower; for anyres config.json",
      {.group = "Input"});
  options.add("outputs", &flags.outputs, "safetensors file to write", {.group = "Output", .required = true});
  if (!parse(options, args)) return 0;

  const auto bytes = read_file(flags.image);
  image::DecodeOptions decoding;
  decoding.exif_orientation = flags.kind == "sam";  // OpenCV turns what LISA reads, Pillow does not turn what CLIP gets
  const auto picture = image::decode(image::bytes_of(bytes), flags.image, decoding);
  io::TensorMap out;
  for (const auto& array : image::run_preprocess(picture, request_of(flags))) {
    at::Tensor tensor = at::empty(array.shape, at::TensorOptions().dtype(type_of(array.type)));
    std::memcpy(tensor.mutable_data_ptr(), array.bytes.data(), array.bytes.size());
    out[array.name] = tensor;
  }
  io::write_tensors(flags.outputs, out);
  return 0;
}

}  // namespace tessera::cli
