#include "tessera/train/export.hpp"

#include <ATen/core/grad_mode.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "tessera/adapt/base_start.hpp"
#include "tessera/adapt/peft_config.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/core/file.hpp"
#include "tessera/io/model_writer.hpp"
#include "tessera/io/quantized_source.hpp"
#include "tessera/io/safetensors.hpp"
#include "tessera/io/tensor_file.hpp"
#include "tessera/io/torch_writer.hpp"

namespace tessera::train {

namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kShardBytes = std::int64_t{5} << 30;        // transformers' default is of this order
constexpr std::int64_t kMaxTorchBytes = std::int64_t{4000} << 20;  // the writer of such files ends at 4 GiB

// The adapters of one layer, by the base weight (and, with lora_bias, by the bias) that they belong to.
std::map<const nn::ParamState*, const adapt::LoraLayer*> layers_by_weight(const adapt::Lora& lora) {
  std::map<const nn::ParamState*, const adapt::LoraLayer*> out;
  for (const auto& layer : lora.layers) {
    out[layer.target->weight.get()] = &layer;
    if (layer.bias) out[layer.target->bias.get()] = &layer;
  }
  return out;
}

at::Tensor merged(const nn::ParamState& p, const adapt::LoraLayer& layer) {
  const auto tensors = adapt::bound_tensors(layer);
  const bool bias = layer.target->bias.get() == &p;
  return bias ? adapt::merged_bias(p.value(), tensors) : adapt::merged_rows(p.value(), tensors, 0);
}

at::ScalarType stored_type(const std::string& precision) {
  return precision == "bf16" ? at::kBFloat16 : precision == "fp16" ? at::kHalf : at::kFloat;
}

io::Elem elem_of(at::ScalarType type) {
  return type == at::kBFloat16 ? io::Elem::bf16 : type == at::kHalf ? io::Elem::f16 : io::Elem::f32;
}

at::Tensor on_host(const at::Tensor& t, at::ScalarType type) {
  return t.detach().to(c10::Device(c10::DeviceType::CPU), type).contiguous();
}

// Writes one unit's tensors while it is gathered. Errors of rank 0 are agreed on after the unit, so that no rank is
// left alone in the next gather.
template <class Write>
void with_unit(LoadedModel& model, std::size_t unit, Write&& write) {
  std::exception_ptr failed;
  model.engine->with_gathered(static_cast<nn::UnitId>(unit), true, [&] {
    if (model.engine->control().rank() != 0) return;
    try {
      for (const auto& param : model.layout->units()[unit].params) write(*param);
    } catch (...) {
      failed = std::current_exception();
    }
  });
  comm::agree(model.engine->control(), failed);
}

std::vector<std::size_t> units_where(const nn::ModelLayout& layout,
                                     const std::function<bool(const nn::ParamState&)>& wanted) {
  std::vector<std::size_t> out;
  for (std::size_t u = 0; u < layout.units().size(); ++u) {
    const auto& params = layout.units()[u].params;
    if (std::any_of(params.begin(), params.end(), [&](const nn::Param& p) { return wanted(*p); })) out.push_back(u);
  }
  return out;
}

std::vector<std::int64_t> exported_shape(const LoadedModel& model, const nn::ParamState& p) {
  if (model.start) return adapt::converted_shape(p);
  return model.lora ? adapt::saved_shape(*model.lora, p) : p.shape;
}

// Of what is gathered.
at::Tensor exported_value(const LoadedModel& model, const nn::ParamState& p) {
  if (model.start) return adapt::converted(p, p.value(), *model.start);
  return model.lora ? adapt::saved_part(*model.lora, p, p.value()) : p.value();
}

std::vector<io::TensorInfo> table_of(const LoadedModel& model, const std::function<bool(const nn::ParamState&)>& wanted,
                                     const std::function<std::string(const nn::ParamState&)>& file_name) {
  std::vector<io::TensorInfo> table;
  for (const auto& p : model.layout->params()) {
    if (wanted(*p)) table.push_back({file_name(*p), io::Elem::f32, exported_shape(model, *p)});
  }
  return table;
}

// Chosen parameters in fp32: `open(table)` makes the file, `write(info, data)` takes a tensor, `commit()` ends it.
template <class Open, class Write, class Commit>
void export_parameters(LoadedModel& model, const std::function<bool(const nn::ParamState&)>& wanted,
                       const std::function<std::string(const nn::ParamState&)>& file_name, Open&& open, Write&& write,
                       Commit&& commit) {
  auto& control = model.engine->control();
  comm::on_rank_zero(control, [&] { open(table_of(model, wanted, file_name)); });
  for (const auto u : units_where(*model.layout, wanted)) {
    with_unit(model, u, [&](const nn::ParamState& p) {
      if (!wanted(p)) return;
      const auto host = on_host(exported_value(model, p), at::kFloat);
      write(io::TensorInfo{file_name(p), io::Elem::f32, exported_shape(model, p)}, host.const_data_ptr());
    });
  }
  comm::on_rank_zero(control, [&] { commit(); });
}

void export_safetensors(LoadedModel& model, const fs::path& path,
                        const std::function<bool(const nn::ParamState&)>& wanted,
                        const std::function<std::string(const nn::ParamState&)>& file_name) {
  std::optional<io::SafetensorsWriter> writer;
  export_parameters(
      model, wanted, file_name,
      [&](const std::vector<io::TensorInfo>& table) {
        make_directories(path.parent_path());
        writer.emplace(path, table, io::Metadata{{"format", "pt"}});
      },
      [&](const io::TensorInfo& info, const void* data) { writer->write(info.name, 0, info.numel(), data); },
      [&] { writer->commit(); });
}

void export_torch(LoadedModel& model, const fs::path& path, const std::function<bool(const nn::ParamState&)>& wanted,
                  const std::function<std::string(const nn::ParamState&)>& file_name) {
  std::optional<io::TorchFileWriter> writer;
  export_parameters(
      model, wanted, file_name,
      [&](const std::vector<io::TensorInfo>&) {
        make_directories(path.parent_path());
        writer.emplace(path);
      },
      [&](const io::TensorInfo& info, const void* data) { writer->write(info, data); }, [&] { writer->commit(); });
}

bool is_lora(const LoadedModel& model, const nn::ParamState& p) {
  return model.lora && p.unit == model.lora->unit;
}

bool is_adapter(const LoadedModel& model, const nn::ParamState& p) {
  return is_lora(model, p) || (model.prefix && p.unit == model.prefix->unit);
}

bool is_saved_with_adapter(const LoadedModel& model, const nn::ParamState& p) {
  return model.lora && std::any_of(model.lora->saved.begin(), model.lora->saved.end(),
                                   [&](const nn::Param& saved) { return saved.get() == &p; });
}

bool in_transformers_form(const LoadedModel& model) {
  return model.recipe->transformers_form();
}

void copy_if_there(const fs::path& from, const fs::path& to) {
  if (fs::exists(from)) write_file(to, read_file(from));
}

// CLIP is read from its own folder at load time, unless it trained here or has no weights there.
bool keeps_tower(const LoadedModel& model) {
  return model.vision_tower_trained || !model.vision_tower_on_disk;
}

bool left_out(const LoadedModel& model, const nn::ParamState& p) {
  if (is_adapter(model, p)) return true;
  if (p.name.find("vision_tower.vision_tower.") == std::string::npos) return false;
  return !keeps_tower(model);
}

// The tokenizer's and processor's files as the base has them, and the tokens that LISA adds in memory, so that other
// programs see them.
void copy_tokenizer(const LoadedModel& model, const fs::path& dir) {
  for (const char* name :
       {"tokenizer.model", "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json",
        "special_tokens_map.json", "generation_config.json", "chat_template.jinja", "chat_template.json"}) {
    copy_if_there(model.tokenizer.folder() / name, dir / name);
  }
  if (in_transformers_form(model)) {
    for (const char* name : {"preprocessor_config.json", "processor_config.json"}) {
      copy_if_there(model.recipe->folder() / name, dir / name);
    }
  }
  nlohmann::ordered_json added = nlohmann::ordered_json::object();
  for (const auto& token : model.tokenizer.added_tokens()) {
    if (token.id >= model.tokenizer.base_size()) added[token.content] = token.id;
  }
  if (!added.empty()) write_file(dir / "added_tokens.json", added.dump(2) + "\n");
}

// Since 4.56 transformers writes dtype, and heeds it first.
void say_type(nlohmann::json& config, const char* type) {
  config["torch_dtype"] = type;
  if (config.contains("dtype")) config["dtype"] = type;
}

// The tower stays where it was, named by its absolute path; a built-in one keeps its name. In transformers' form it is
// part of the model.
nlohmann::json language_config(const LoadedModel& model, const std::string& precision) {
  auto config = model.recipe->exported_config();
  const auto& tower = model.recipe->tower_folder();
  const char* type = precision == "bf16" ? "bfloat16" : precision == "fp16" ? "float16" : "float32";
  say_type(config, type);
  if (in_transformers_form(model)) {
    for (const char* part : {"text_config", "vision_config"}) say_type(config[part], type);
    return config;
  }
  if (!tower.empty()) config["mm_vision_tower"] = tower.string();
  config.erase("vision_tower");
  return config;
}

// A tower that is kept lies in the weights, and its description beside them.
void write_config(const LoadedModel& model, const fs::path& dir, const std::string& precision) {
  auto config = language_config(model, precision);
  io::drop_quantization(config);
  if (keeps_tower(model) && !model.recipe->tower_folder().empty()) {
    config["mm_vision_tower"] = "clip";
    make_directories(dir / "clip");
    for (const char* name : {"config.json", "preprocessor_config.json"}) {
      const auto from = model.recipe->tower_folder() / name;
      copy_if_there(from, dir / "clip" / name);
    }
  }
  write_file(dir / "config.json", config.dump(2) + "\n");
}

// adapter_config.json. Over a model in transformers' form its layers have the names of transformers' modules, each
// named whole: a pattern would match layers of the tower as well.
std::string adapter_config(const LoadedModel& model, const adapt::Lora& lora, const std::string& base_model) {
  const auto text = adapt::peft_config_json(lora, base_model);
  if (!in_transformers_form(model)) return text;
  auto json = nlohmann::json::parse(text);
  const auto& config = lora.config;
  json["target_modules"] = nlohmann::json::array();
  for (const char* key : {"exclude_modules", "layers_pattern", "layers_to_transform"}) json[key] = nullptr;
  auto ranks = nlohmann::json::object();
  auto alphas = nlohmann::json::object();
  for (const auto& layer : adapt::layer_names(lora)) {
    const auto name = model.recipe->module_name(layer);
    const auto own = config.layer(layer);
    json["target_modules"].push_back(name);
    if (config.adalora) continue;
    if (own.rank != config.rank) ranks[name] = own.rank;
    if (own.alpha != config.alpha) alphas[name] = own.alpha;
  }
  // AdaLoRA's pattern says which triplets of a layer are left.
  if (config.adalora && json["rank_pattern"].is_object()) {
    for (const auto& [name, kept] : json["rank_pattern"].items()) ranks[model.recipe->module_name(name)] = kept;
  }
  if (!json["rank_pattern"].is_null()) json["rank_pattern"] = std::move(ranks);
  json["alpha_pattern"] = std::move(alphas);
  for (auto& name : json["modules_to_save"]) {
    if (name == "mm_projector") name = "multi_modal_projector";
  }
  return json.dump(2) + "\n";
}

}  // namespace

namespace {

// PEFT's name in the adapter's file; a bias that trains under an adapter is its layer's.
std::string peft_name(const LoadedModel& model, const nn::ParamState& p) {
  constexpr std::string_view kBias = ".bias";
  auto name = adapt::peft_file_name(model.recipe->module_name(p.name));
  const auto& layers = model.lora->layers;
  const bool adapted = std::any_of(layers.begin(), layers.end(),
                                   [&](const adapt::LoraLayer& layer) { return layer.target->bias.get() == &p; });
  if (adapted) name.insert(name.size() - kBias.size(), ".base_layer");
  return name;
}

}  // namespace

void export_adapter(LoadedModel& model, const std::string& base_model, const fs::path& dir,
                    const std::string& precision) {
  export_safetensors(
      model, dir / "adapter_model.safetensors",
      [&](const nn::ParamState& p) { return is_lora(model, p) || is_saved_with_adapter(model, p); },
      [&](const nn::ParamState& p) { return peft_name(model, p); });
  comm::on_rank_zero(model.engine->control(), [&] {
    const adapt::Lora lora = model.start ? adapt::converted(*model.lora) : *model.lora;
    write_file(dir / "adapter_config.json", adapter_config(model, lora, base_model));
    // LLaVA's loader looks for it there.
    if (!in_transformers_form(model)) write_file(dir / "config.json", language_config(model, precision).dump(2) + "\n");
  });
}

void export_prefix(LoadedModel& model, const std::string& base_model, const fs::path& dir) {
  std::exception_ptr failed;
  model.engine->with_gathered(model.prefix->unit, true, [&] {
    if (model.engine->control().rank() != 0) return;
    try {
      make_directories(dir);
      const at::Tensor product = on_host(adapt::prompt_embeddings(*model.prefix), at::kFloat);
      io::write_tensors(dir / "adapter_model.safetensors", {{adapt::kPromptEmbeddings, product}});
      write_file(dir / "adapter_config.json", adapt::prefix_config_json(*model.prefix, base_model));
    } catch (...) {
      failed = std::current_exception();
    }
  });
  comm::agree(model.engine->control(), failed);
}

void export_other_trained(LoadedModel& model, const fs::path& dir) {
  auto wanted = [&](const nn::ParamState& p) {
    const bool other = p.trainable || model.carried.contains(&p);
    return other && !is_adapter(model, p) && !is_saved_with_adapter(model, p);
  };
  if (units_where(*model.layout, wanted).empty()) return;
  const auto peft_name = [&](const nn::ParamState& p) {
    return adapt::peft_file_name(model.recipe->module_name(p.name));
  };
  if (!model.lora) {
    export_safetensors(model, dir / "non_lora_trainables.safetensors", wanted,
                       [](const nn::ParamState& p) { return p.name; });
    return;
  }
  std::int64_t bytes = 0;
  for (const auto& info : table_of(model, wanted, peft_name)) bytes += 4 * info.numel();
  if (bytes < kMaxTorchBytes) {
    export_torch(model, dir / "non_lora_trainables.bin", wanted, peft_name);
  } else {
    export_safetensors(model, dir / "non_lora_trainables.safetensors", wanted, peft_name);
  }
}

void export_projector(LoadedModel& model, const fs::path& dir) {
  // With the vector that ends rows of tiles, which may have been drawn here: the next stage is to begin with the same.
  auto wanted = [](const nn::ParamState& p) {
    return p.name.find(".mm_projector.") != std::string::npos || p.name.ends_with(".image_newline");
  };
  std::optional<io::TorchFileWriter> writer;
  auto& control = model.engine->control();
  comm::on_rank_zero(control, [&] {
    make_directories(dir);
    writer.emplace(dir / "mm_projector.bin");
  });
  for (const auto u : units_where(*model.layout, wanted)) {
    with_unit(model, u, [&](const nn::ParamState& p) {
      if (!wanted(p)) return;
      const auto host = on_host(p.value(), at::kFloat);
      writer->write({p.name, io::Elem::f32, p.shape}, host.const_data_ptr());
    });
  }
  comm::on_rank_zero(control, [&] { writer->commit(); });
}

void export_merged(LoadedModel& model, const fs::path& dir, const std::string& precision, const Log& log) {
  const auto type = stored_type(precision);
  const auto adapted =
      model.lora ? layers_by_weight(*model.lora) : std::map<const nn::ParamState*, const adapt::LoraLayer*>();
  std::vector<io::TensorInfo> table;
  for (const auto& p : model.layout->params()) {
    if (!left_out(model, *p)) table.push_back({model.recipe->file_name(p->name), elem_of(type), p->shape});
  }
  auto& control = model.engine->control();
  std::optional<io::ModelWriter> writer;
  comm::on_rank_zero(control, [&] {
    make_directories(dir);
    writer.emplace(dir, table, kShardBytes);
  });
  auto write_units = [&] {
    for (const auto u : units_where(*model.layout, [&](const nn::ParamState& p) { return !left_out(model, p); })) {
      with_unit(model, u, [&](const nn::ParamState& p) {
        if (left_out(model, p)) return;
        const at::NoGradGuard no_grad;
        const auto found = adapted.find(&p);
        const auto whole = found == adapted.end() ? p.value() : merged(p, *found->second);
        const auto host = on_host(whole, type);
        writer->write(model.recipe->file_name(p.name), 0, host.numel(), host.const_data_ptr());
      });
    }
  };
  if (model.lora) {
    model.engine->with_gathered(model.lora->unit, true, write_units);
  } else {
    write_units();
  }
  comm::on_rank_zero(control, [&] {
    writer->commit();
    write_config(model, dir, precision);
    copy_tokenizer(model, dir);
  });
  log.info("merged model written to {}: {} tensors, {:.1f} M elements, {}", dir.string(), table.size(),
           static_cast<double>(model.layout->total_elements()) / 1e6, precision);
}

}  // namespace tessera::train
