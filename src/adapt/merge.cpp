#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "matrices.hpp"
#include "tessera/adapt/base_start.hpp"
#include "tessera/adapt/peft_folder.hpp"
#include "tessera/adapt/tied_head.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/json.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/io/model_writer.hpp"
#include "tessera/io/names.hpp"
#include "tessera/io/quantized_source.hpp"

namespace tessera::adapt {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kBlock = std::int64_t{1} << 23;  ///< elements merged or copied at once

constexpr std::array<std::string_view, 6> kWeightEndings = {".safetensors", ".bin",        ".pth",
                                                            ".pt",          ".index.json", ".h5"};

at::ScalarType float_type(const io::TensorInfo& tensor, const std::string& where) {
  switch (tensor.type) {
    case io::Elem::f32:
      return at::kFloat;
    case io::Elem::f16:
      return at::kHalf;
    case io::Elem::bf16:
      return at::kBFloat16;
    default:
      throw RequestError("{}: '{}' is {}; adapters merge into F32, F16 and BF16", where, tensor.name,
                         io::name_of(tensor.type));
  }
}

class MergedSource final : public io::TensorSource {
 public:
  MergedSource(io::SourcePtr base, const PeftFolder& adapter) : base_(std::move(base)), adapter_(adapter.weights) {
    for (const std::string& layer : adapter.config.targets) {
      const io::TensorInfo* weight = base_->find(layer + ".weight");
      if (weight == nullptr) throw RequestError("the adapter is for a layer '{}' that the model does not have", layer);
      const LoraConfig::Layer settings = adapter.config.layer(layer);
      if (settings.rank == 0) continue;
      const Layer found{matrices_of(*adapter_, layer), adapter.config.scaling(settings)};
      const std::vector<std::int64_t> fits = found.matrices.weight_shape();
      if (weight->shape != fits) {
        throw RequestError("{}: '{}' is {}, its adapter is for {}", base_->where(*weight), weight->name,
                           io::shape_text(weight->shape), io::shape_text(fits));
      }
      float_type(*weight, base_->where(*weight));
      layers_.emplace(weight->name, found);
      if (found.matrices.bias != nullptr) add_bias(layer, found);
    }
  }

  const std::vector<io::TensorInfo>& tensors() const override { return base_->tensors(); }
  std::string where(const io::TensorInfo& tensor) const override { return base_->where(tensor); }

  void read(const io::TensorInfo& tensor, std::int64_t begin, std::int64_t count, void* out) const override {
    if (const auto bias = biases_.find(tensor.name); bias != biases_.end())
      return read_bias(bias->second, tensor, begin, count, out);
    const auto found = layers_.find(tensor.name);
    if (found == layers_.end() || count == 0) return base_->read(tensor, begin, count, out);
    const io::TensorInfo& weight = *base_->find(tensor.name);
    const LoraTensors lora = read_layer(found->second);
    const std::int64_t width = weight.numel() / weight.shape[0];
    const std::int64_t rows_at_once = std::max<std::int64_t>(kBlock / width, 1);
    const std::int64_t last = (begin + count - 1) / width;
    auto* bytes = static_cast<std::byte*>(out);
    const auto size = static_cast<std::int64_t>(io::size_of(weight.type));
    for (std::int64_t row = begin / width; row <= last; row += rows_at_once) {
      const std::int64_t rows = std::min(rows_at_once, last + 1 - row);
      at::Tensor whole = at::empty({rows, width}, float_type(weight, ""));
      base_->read(weight, row * width, rows * width, whole.data_ptr());
      whole = merged_rows(whole, lora, row).contiguous();
      const std::int64_t from = std::max(begin, row * width);
      const std::int64_t to = std::min(begin + count, (row + rows) * width);
      std::memcpy(bytes + (from - begin) * size,
                  static_cast<const std::byte*>(whole.const_data_ptr()) + (from - row * width) * size,
                  static_cast<std::size_t>((to - from) * size));
    }
  }

  const io::PackedTensor* packed(const io::TensorInfo& tensor) const override {
    return layers_.contains(tensor.name) ? nullptr : base_->packed(tensor);
  }

 private:
  struct Layer {
    LayerMatrices matrices;
    double scaling;
  };
  void add_bias(const std::string& layer, const Layer& adapter) {
    const io::TensorInfo* bias = base_->find(layer + ".bias");
    if (bias == nullptr || bias->numel() != adapter.matrices.bias->numel())
      throw RequestError("the adapter has a bias for '{}', which has no such bias in the model", layer);
    float_type(*bias, base_->where(*bias));
    biases_.emplace(bias->name, adapter);
  }
  void read_bias(const Layer& adapter, const io::TensorInfo& tensor, std::int64_t begin, std::int64_t count,
                 void* out) const {
    const io::TensorInfo& own = *base_->find(tensor.name);
    at::Tensor bias = at::empty({own.numel()}, float_type(own, ""));
    base_->read(own, 0, own.numel(), bias.data_ptr());
    LoraTensors lora;
    lora.scaling = adapter.scaling;
    lora.bias = read_matrix(*adapter_, *adapter.matrices.bias);
    const at::Tensor part = merged_bias(bias, lora).narrow(0, begin, count).contiguous();
    std::memcpy(out, part.const_data_ptr(), static_cast<std::size_t>(count) * io::size_of(own.type));
  }
  LoraTensors read_layer(const Layer& layer) const {
    const LayerMatrices& m = layer.matrices;
    LoraTensors out{
        read_matrix(*adapter_, *m.a).flatten(1), read_matrix(*adapter_, *m.b).flatten(1), {}, layer.scaling};
    if (m.embedding) out = {out.b.t(), out.a.t(), {}, layer.scaling};
    if (m.e != nullptr) out.a.mul_(read_matrix(*adapter_, *m.e));
    if (m.magnitude != nullptr) out.magnitude = read_matrix(*adapter_, *m.magnitude).flatten();
    return out;
  }
  io::SourcePtr base_, adapter_;
  std::map<std::string, Layer> layers_;  // by their weights
  std::map<std::string, Layer> biases_;  // those with lora_bias, by their biases
};

/// Weights that are written anew, or that belong to a training and not to the model.
bool is_weight_file(const fs::path& path) {
  const std::string name = path.filename().string();
  if (io::is_part_of_lisa_v0(name)) return false;
  return std::any_of(kWeightEndings.begin(), kWeightEndings.end(),
                     [&](std::string_view e) { return name.ends_with(e); });
}

/// Copies what is no weight: configuration, tokenizer, licence; and a vision tower that the config names beside itself.
void copy_other_files(const io::ModelFolder& model, const fs::path& output) {
  constexpr auto kReplace = fs::copy_options::overwrite_existing;
  for (const auto& entry : fs::directory_iterator(model.directory())) {
    if (entry.is_regular_file() && !is_weight_file(entry.path()) && entry.path().filename() != "config.json") {
      fs::copy_file(entry.path(), output / entry.path().filename(), kReplace);
    }
  }
  const fs::path tower = model.config().text("mm_vision_tower", "");
  if (tower.empty() || tower.is_absolute() || !fs::is_directory(model.directory() / tower)) return;
  if (tower.lexically_normal().string().starts_with("..")) return;
  make_directories((output / tower).parent_path());
  fs::copy(model.directory() / tower, output / tower, kReplace | fs::copy_options::recursive);
}

/// The model's config.json; where a LLaVA's adapter sits on a bare language model, the one that LLaVA's trainer left
/// beside the adapter, with the type of the weights as it is.
nlohmann::json merged_config(const io::ModelFolder& model, const std::vector<fs::path>& adapters) {
  nlohmann::json config = model.config().raw();
  for (const fs::path& adapter : adapters) {
    if (config.contains("mm_vision_tower") || !fs::exists(adapter / "config.json")) continue;
    nlohmann::json own = read_json(adapter / "config.json").raw();
    if (!own.is_object() || !own.contains("mm_vision_tower")) continue;
    own.erase("torch_dtype");
    for (const char* key : {"torch_dtype", "dtype"}) {  // the second since transformers 4.56
      if (config.contains(key)) own[key] = config.at(key);
    }
    config = std::move(own);
  }
  return config;
}

/// An adapter's names as the model's files have them. PEFT's over transformers' LLaVA are those of its modules, which
/// are not those of its files (io/names.hpp).
Rename names_of(const io::SourcePtr& weights) {
  std::map<std::string, std::string> by_ours;
  for (const io::TensorInfo& tensor : weights->tensors()) by_ours.emplace(io::llava_name(tensor.name), tensor.name);
  return [weights, by_ours = std::move(by_ours)](const std::string& name) -> std::optional<std::string> {
    if (weights->find(name) != nullptr) return name;
    const auto found = by_ours.find(io::llava_name(name));
    return found == by_ours.end() ? name : found->second;
  };
}

void write_config(nlohmann::json config, const io::TensorSource& weights, const fs::path& output) {
  const io::TensorInfo* embedding = weights.find("model.embed_tokens.weight");
  if (embedding == nullptr) embedding = weights.find("transformer.wte.weight");
  if (embedding != nullptr && config.contains("vocab_size")) config["vocab_size"] = embedding->shape.at(0);
  io::drop_quantization(config);
  write_json(output / "config.json", config);
}

}  // namespace

io::SourcePtr adapted_base(io::SourcePtr base, const PeftFolder& adapter) {
  if (!adapter.config.starts_in_base()) return base;
  return started_source(std::move(base), {adapter.config, adapter.config.targets, 0}, false);
}

io::SourcePtr merged_source(io::SourcePtr base, const PeftFolder& adapter) {
  if (adapter.replaced) {
    base = std::make_shared<io::OverlaySource>(std::vector<io::SourcePtr>{adapter.replaced, base});
  }
  base = adapted_base(std::move(base), adapter);
  return std::make_shared<MergedSource>(std::move(base), adapter);
}

MergeReport merge_folder(const MergeRequest& request) {
  const io::ModelFolder model(request.model);
  if (fs::exists(request.output) && fs::equivalent(request.output, request.model)) {
    throw RequestError("merge: the output {} is the model's own folder", request.output.string());
  }
  MergeReport report;
  io::SourcePtr weights = model.weights();
  nlohmann::json config = merged_config(model, request.adapters);
  if (is_tied(config) && parts_head(request.adapters)) {
    weights = with_own_head(weights);
    say_untied(config);
  }
  for (const fs::path& folder : request.adapters) {
    const PeftFolder adapter = open_peft_folder(folder, names_of(weights));
    weights = merged_source(weights, adapter);
    for (const std::string& layer : adapter.config.targets)
      report.merged += adapter.config.layer(layer).rank > 0 ? (adapter.config.bias ? 2 : 1) : 0;
    if (adapter.replaced) report.replaced += static_cast<std::int64_t>(adapter.replaced->tensors().size());
  }
  make_directories(request.output);
  io::ModelWriter writer(request.output, weights->tensors(), request.shard_bytes);
  std::vector<std::byte> block;
  for (const io::TensorInfo& tensor : weights->tensors()) {
    for (std::int64_t begin = 0; begin < tensor.numel(); begin += kBlock) {
      const std::int64_t count = std::min(kBlock, tensor.numel() - begin);
      block.resize(static_cast<std::size_t>(count) * io::size_of(tensor.type));
      weights->read(tensor, begin, count, block.data());
      writer.write(tensor.name, begin, count, block.data());
    }
    report.tensors += 1;
  }
  report.bytes = writer.plan().total_bytes;
  report.files = writer.plan().files.size();
  copy_other_files(model, request.output);
  write_config(std::move(config), *weights, request.output);
  writer.commit();
  return report;
}

}  // namespace tessera::adapt
