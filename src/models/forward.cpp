#include "tessera/models/forward.hpp"

#include <fmt/ranges.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <regex>

#include "forward_models.hpp"
#include "tessera/adapt/trainable.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/fastvit.hpp"
#include "tessera/models/llava_folder.hpp"
#include "tessera/models/local_weights.hpp"

namespace tessera::models {

at::Tensor Inputs::take(const std::string& name, std::int64_t dim) {
  at::Tensor found = take_optional(name, dim);
  if (!found.defined()) throw RequestError("inputs: '{}' is missing", name);
  return found;
}

at::Tensor Inputs::take_optional(const std::string& name, std::int64_t dim) {
  const auto at = left_.find(name);
  if (at == left_.end()) return {};
  at::Tensor found = at->second;
  left_.erase(at);
  if (dim >= 0 && found.dim() != dim) {
    throw RequestError("inputs: '{}' is [{}], expected {} dimensions", name, fmt::join(found.sizes(), ","), dim);
  }
  return found;
}

std::vector<std::int64_t> Inputs::take_integers(const std::string& name) {
  const at::Tensor found = take(name, -1);
  if (found.is_floating_point()) throw RequestError("inputs: '{}' must be integers", name);
  const at::Tensor flat = found.to(at::kCPU, at::kLong).contiguous();
  return {flat.data_ptr<std::int64_t>(), flat.data_ptr<std::int64_t>() + flat.numel()};
}

TensorMap Inputs::take_prefixed(const std::string& prefix) {
  TensorMap found;
  for (auto at = left_.lower_bound(prefix); at != left_.end() && at->first.starts_with(prefix); at = left_.erase(at)) {
    found.emplace(at->first.substr(prefix.size()), at->second);
  }
  return found;
}

void Inputs::finish() const {
  if (left_.empty()) return;
  std::vector<std::string> names;
  for (const auto& [name, tensor] : left_) names.push_back(name);
  throw RequestError("inputs: this model has no use for '{}'", fmt::join(names, "', '"));
}

void put_list(TensorMap& outputs, const std::string& name, const std::vector<at::Tensor>& list) {
  for (std::size_t i = 0; i < list.size(); ++i) outputs[name + "." + std::to_string(i)] = list[i].detach();
}

ForwardModel::ForwardModel() = default;
ForwardModel::~ForwardModel() = default;

std::string ForwardModel::file_name(const nn::ParamState& param) const {
  const auto found = file_names_.find(param.name);
  return found == file_names_.end() ? param.name : found->second;
}

void ForwardModel::put_gradient(TensorMap& outputs, const nn::ParamState& param, const at::Tensor& gradient) const {
  outputs["grad." + file_name(param)] = gradient.to(at::kCPU, at::kFloat, /*non_blocking=*/false, /*copy=*/true);
}

void ForwardModel::set_weights(const io::SourcePtr& files, adapt::Rename rename) {
  for (const io::TensorInfo& tensor : files->tensors()) {
    if (const auto own = rename(tensor.name)) file_names_.emplace(*own, tensor.name);
  }
  rename_ = std::move(rename);
  weights_ =
      std::make_shared<io::RenamedSource>(files, [this](std::string_view name) { return rename_(std::string(name)); });
}

void ForwardModel::attach_adapters(const ForwardRequest& request) {
  if (request.merge && request.adapters.empty()) throw RequestError("--merge needs an --adapter");
  for (const std::filesystem::path& folder : request.adapters) {
    if (adapt::peft_type(folder) == "PREFIX_TUNING") {
      if (request.merge)
        throw RequestError("--merge: {} is a prefix, which no weights can be merged with", folder.string());
      attach_prefix(folder);
      continue;
    }
    const adapt::PeftFolder adapter = adapt::open_peft_folder(folder, rename_);
    if (request.merge) {
      weights_ = adapt::merged_source(weights_, adapter);
    } else {
      attach_lora(adapter, folder);
    }
  }
}

void ForwardModel::attach_lora(const adapt::PeftFolder& adapter, const std::filesystem::path& folder) {
  if (lora_) {
    throw RequestError(
        "two LoRA adapters side by side are not supported (one beside a prefix is); --merge merges them one after the "
        "other");
  }
  lora_ = adapt::attach_lora(layout_, adapter, adapter.config, folder);
  for (const auto& [own, file] : adapter.file_names) file_names_[own] = file;
  trained_whole_.insert(adapter.trained_whole.begin(), adapter.trained_whole.end());
  std::vector<io::SourcePtr> sources{adapter.weights};
  if (adapter.replaced) sources.push_back(adapter.replaced);
  sources.push_back(adapt::adapted_base(weights_, adapter));
  weights_ = std::make_shared<io::OverlaySource>(sources);
}

void ForwardModel::attach_prefix(const std::filesystem::path& folder) {
  const adapt::PrefixFolder prefix = adapt::open_prefix_folder(folder);
  prefix_ = adapt::attach_prefix(layout_, prefix.config);
  adapt::check_fits(prefix, *prefix_, folder);
  file_names_[prefix_->embedding->name] = adapt::kPromptEmbeddings;
  weights_ = std::make_shared<io::OverlaySource>(std::vector<io::SourcePtr>{prefix.weights, weights_});
}

ForwardModel::Result ForwardModel::run(const TensorMap& inputs, nn::UnitRunner& runner) const {
  Result result = compute(inputs, runner);
  if (!lora_ || !lora_->config.adalora) return result;
  const at::Tensor orthogonality = adapt::orthogonality(*lora_);
  result.outputs["orth_reg"] = orthogonality.detach();
  if (!result.objective.defined() || inputs.contains("cotangent")) return result;
  result.objective = result.objective + orthogonality.mul(lora_->config.adalora->orth_reg_weight);
  result.outputs["loss"] = result.objective.detach();
  return result;
}

bool ForwardModel::trained_by_recipe(const nn::ParamState& param) const {
  return !(lora_ || prefix_) || layout_.unit(param.unit).fused || trained_whole_.contains(param.name);
}

void ForwardModel::mark(const ForwardRequest& request) {
  std::optional<std::regex> pattern;
  if (!request.grads.empty() && request.grads != "all" && request.grads != "trainable") {
    try {
      pattern.emplace(request.grads);
    } catch (const std::regex_error& problem) {
      throw RequestError("--grads '{}' is no regular expression: {}", request.grads, problem.what());
    }
  }
  bool any = false;
  for (const nn::Param& param : layout_.params()) {
    bool wanted = request.grads == "all" || (request.grads == "trainable" && trained_by_recipe(*param));
    if (pattern) wanted = std::regex_search(file_name(*param), *pattern);
    param->trainable = wanted && !param->buffer;
    any = any || param->trainable;
  }
  if (pattern && !any) throw RequestError("--grads '{}' matches no weight", request.grads);
}

std::unique_ptr<ForwardModel> ForwardModel::open(const ForwardRequest& request) {
  const io::ModelFolder folder(request.model);
  const nlohmann::json& config = folder.config().raw();
  const std::string type = folder.config().text("model_type", "");
  // A LISA keeps its base's model_type; what it adds tells it apart.
  std::unique_ptr<ForwardModel> model;
  if (config.contains("train_mask_decoder") || config.contains("sam_config") ||
      std::filesystem::exists(request.model / "pytorch_model-visual_model.bin")) {
    model = open_lisa(request);
  } else if (type == "llama" || type == "mistral" || type == "qwen2" || type == "mpt") {
    model = open_language(request, config);
  } else if (is_llava_config(config)) {
    model = open_llava(request);
  } else if (type == "clip_vision_model" || type == "clip") {
    model = open_clip(request, config);
  } else if (is_fastvit_config(config)) {
    model = open_fastvit(request, config);
  } else if (type == "sam") {
    model = open_sam(request, config);
  } else {
    throw RequestError(
        "{}: model_type '{}' is not supported; supported are llama, mistral, qwen2, mpt, llava, llava_llama, "
        "llava_mistral, llava_qwen2, llava_mpt, llava_next, fast_vlm, clip_vision_model, clip, sam, FastViTHD's and "
        "LISA folders",
        folder.config().where(), type);
  }
  model->attach_adapters(request);
  model->mark(request);
  return model;
}

void put_gradient_norm(TensorMap& outputs) {
  double squares = 0;
  for (const auto& [name, value] : outputs) {
    if (name.starts_with("grad.")) squares += value.to(at::kDouble).square().sum().item<double>();
  }
  outputs["grad_norm_total"] = at::scalar_tensor(std::sqrt(squares), at::kFloat);
}

void require_objective(const ForwardModel::Result& result) {
  if (result.objective.defined()) return;
  throw RequestError("--grads: the inputs have no labels, masks or cotangent, so there is nothing to differentiate");
}

TensorMap run_forward(const ForwardRequest& request, const TensorMap& inputs) {
  const auto model = ForwardModel::open(request);
  load_local(model->layout(), model->weights());
  nn::LocalRunner runner;
  const at::AutoGradMode graph(!request.grads.empty());
  ForwardModel::Result result = model->run(inputs, runner);
  if (request.grads.empty()) return result.outputs;
  require_objective(result);
  if (result.objective.requires_grad()) result.objective.backward();
  for (const nn::Param& param : model->layout().params()) {
    if (!param->trainable) continue;
    const at::Tensor& value = param->value();
    model->put_gradient(result.outputs, *param, value.grad().defined() ? value.grad() : at::zeros_like(value.detach()));
  }
  put_gradient_norm(result.outputs);
  return result.outputs;
}

}  // namespace tessera::models
