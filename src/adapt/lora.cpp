#include "tessera/adapt/lora.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/linear.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"
#include "tessera/core/options.hpp"
#include "tessera/nn/dropout.hpp"

namespace tessera::adapt {
namespace {

constexpr std::string_view kPeftPrefix = "base_model.model.";

class LoraAdapter final : public nn::LinearAdapter {
 public:
  LoraAdapter(nn::Param a, nn::Param b, double scaling, double dropout, std::string site)
      : a_(std::move(a)), b_(std::move(b)), scaling_(scaling), dropout_(dropout), site_(std::move(site)) {}

  at::Tensor apply(const at::Tensor& x, const at::Tensor& base, const nn::ForwardContext& ctx) const override {
    const at::Tensor low = at::linear(nn::dropout(x, dropout_, site_, ctx), a_->value().to(x.scalar_type()));
    return base.add(at::linear(low, b_->value().to(x.scalar_type())), scaling_);
  }

 private:
  nn::Param a_, b_;
  double scaling_;
  double dropout_;
  std::string site_;
};

bool matches(const std::string& name, const std::string& target, TargetMatch rule) {
  if (rule == TargetMatch::substring) return name.find(target) != std::string::npos;
  return name == target || (rule == TargetMatch::suffix && name.ends_with("." + target));
}

bool excluded(const std::string& name, const LoraConfig& config) {
  return std::any_of(config.exclude.begin(), config.exclude.end(),
                     [&](const std::string& part) { return name.find(part) != std::string::npos; });
}

std::string last_component(const std::string& name) {
  return name.substr(name.rfind('.') + 1);
}

std::vector<std::shared_ptr<nn::LinearState>> find_targets(const nn::ModelLayout& layout, const LoraConfig& config) {
  std::vector<std::shared_ptr<nn::LinearState>> found;
  std::vector<bool> used(config.targets.size(), false);
  for (const auto& linear : layout.linears()) {
    if (excluded(linear->name, config)) continue;
    bool wanted = false;
    for (std::size_t i = 0; i < config.targets.size(); ++i) {
      if (!matches(linear->name, config.targets[i], config.match)) continue;
      used[i] = true;
      wanted = true;
    }
    if (wanted) found.push_back(linear);
  }
  for (std::size_t i = 0; i < used.size(); ++i) {
    if (used[i]) continue;
    std::vector<std::string> names;
    for (const auto& linear : layout.linears()) {
      if (!excluded(linear->name, config)) names.push_back(last_component(linear->name));
    }
    const std::string near = nearest_name(last_component(config.targets[i]), names);
    throw RequestError("lora: no layer matches target '{}'{}", config.targets[i],
                       near.empty() ? "" : "; did you mean '" + near + "'?");
  }
  return found;
}

void check(const LoraConfig& config) {
  if (config.rank < 1) throw RequestError("lora: rank {} is below 1", config.rank);
  if (!(config.dropout >= 0.0 && config.dropout < 1.0))
    throw RequestError("lora: dropout {} is not in [0, 1)", config.dropout);
  if (config.targets.empty()) throw RequestError("lora: no target modules are named");
}

}  // namespace

double LoraConfig::scaling() const {
  const auto r = static_cast<double>(rank);
  return alpha / (rslora ? std::sqrt(r) : r);
}

std::vector<std::string> lora_targets(const nn::ModelLayout& layout, const LoraConfig& config) {
  check(config);
  std::vector<std::string> names;
  for (const auto& linear : find_targets(layout, config)) names.push_back(linear->name);
  return names;
}

Lora attach_lora(nn::ModelLayout& layout, const LoraConfig& config) {
  check(config);
  Lora lora;
  lora.config = config;
  const auto targets = find_targets(layout, config);
  lora.unit = layout.add_unit("adapters", true);
  for (const auto& target : targets) {
    if (target->adapter) throw RequestError("lora: layer '{}' has an adapter already", target->name);
    if (config.rank > std::min(target->in, target->out)) {
      throw RequestError("lora: rank {} is above the smaller side of '{}' [{}, {}]", config.rank, target->name,
                         target->out, target->in);
    }
    LoraLayer layer{
        target,
        layout.add(lora.unit, target->name + ".lora_A.default.weight", {config.rank, target->in},
                   nn::Init::fan_in(target->in)),
        layout.add(lora.unit, target->name + ".lora_B.default.weight", {target->out, config.rank}, nn::Init::zeros())};
    layer.a->trainable = true;
    layer.b->trainable = true;
    layout.mark_adapted(target->weight->unit);
    target->adapter = std::make_shared<LoraAdapter>(layer.a, layer.b, config.scaling(), config.dropout, target->name);
    lora.layers.push_back(std::move(layer));
  }
  return lora;
}

at::Tensor merged_rows(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scaling,
                       std::int64_t begin) {
  const at::Tensor rows = b.narrow(0, begin, weight.size(0)).to(at::kFloat);
  return at::addmm(weight.to(at::kFloat), rows, a.to(at::kFloat), 1.0, scaling).to(weight.scalar_type());
}

std::string peft_file_name(std::string_view param_name) {
  std::string name = std::string(kPeftPrefix) + std::string(param_name);
  constexpr std::string_view kAdapter = ".default";
  const std::size_t at = name.rfind(kAdapter);
  if (at != std::string::npos) name.erase(at, kAdapter.size());
  return name;
}

std::string param_name_of_peft(std::string_view file_name) {
  std::string name(file_name);
  if (name.starts_with(kPeftPrefix)) name.erase(0, kPeftPrefix.size());
  for (const char* matrix : {".lora_A", ".lora_B"}) {
    const std::size_t at = name.rfind(matrix);
    if (at == std::string::npos) continue;
    const std::string tail = name.substr(at + std::string_view(matrix).size());
    if (tail == ".weight" || tail == ".default.weight") return name.substr(0, at) + matrix + ".default.weight";
  }
  return "";
}

std::string peft_config_json(const Lora& lora, const std::string& base_model) {
  std::vector<std::string> targets;
  for (const LoraLayer& layer : lora.layers) targets.push_back(layer.target->name);
  const nlohmann::json json = {{"peft_type", "LORA"},
                               {"task_type", "CAUSAL_LM"},
                               {"base_model_name_or_path", base_model},
                               {"r", lora.config.rank},
                               {"lora_alpha", lora.config.alpha},
                               {"lora_dropout", lora.config.dropout},
                               {"use_rslora", lora.config.rslora},
                               {"target_modules", targets},
                               {"bias", "none"},
                               {"fan_in_fan_out", false},
                               {"inference_mode", true},
                               {"init_lora_weights", true},
                               {"modules_to_save", nullptr}};
  return json.dump(2) + "\n";
}

LoraConfig lora_config_from_json(const JsonView& json) {
  if (json.text("peft_type", "") != "LORA") {
    throw RequestError("{}: peft_type is '{}', only LORA is supported", json.where(), json.text("peft_type", ""));
  }
  for (const char* key : {"use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out"}) {
    if (!json.has(key)) continue;
    const nlohmann::json& value = json.at(key).raw();
    if (value != false && !value.empty()) throw RequestError("{} is not supported", json.at(key).where());
  }
  if (json.text("bias", "none") != "none") throw RequestError("{}: only 'bias' none is supported", json.where());
  LoraConfig config;
  config.rank = json.integer("r");
  config.alpha = json.real("lora_alpha");
  config.dropout = json.real("lora_dropout", 0.0);
  config.rslora = json.boolean("use_rslora", false);
  config.match = TargetMatch::exact;
  config.exclude.clear();
  config.targets.clear();
  return config;
}

}  // namespace tessera::adapt
