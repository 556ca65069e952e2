#include "train/deepspeed_file.hpp"

#include <nlohmann/json.hpp>
#include <optional>

#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"

namespace tessera::train {

namespace {

// A section of the file, or nothing.
std::optional<JsonView> section(const JsonView& file, const char* name) {
  return file.has(name) ? std::optional(file.at(name)) : std::nullopt;
}

// A key that holds neither "auto" nor nothing.
bool says(const JsonView& view, const char* key) {
  return view.has(key) && !(view.at(key).is_text() && view.text(key) == "auto");
}

void take_number(const JsonView& view, const char* key, double& field, std::string_view flag, const Options& options) {
  if (!says(view, key)) return;
  const double value = view.real(key);
  if (options.given(flag) && field != value) {
    throw RequestError("{} is {}, which contradicts --{} {}", view.at(key).where(), value, flag, field);
  }
  field = value;
}

void take_clipping(const JsonView& file, TrainConfig& c, const Options& options) {
  take_number(file, "gradient_clipping", c.max_grad_norm, "max_grad_norm", options);
  if (!file.has("gradient_clipping") && !options.given("max_grad_norm")) c.max_grad_norm = 0;
}

void take_precision(const JsonView& file, TrainConfig& c) {
  for (const char* type : {"bf16", "fp16"}) {
    const auto own = section(file, type);
    if (!own || !says(*own, "enabled") || !own->boolean("enabled")) continue;
    if (!c.precision.empty() && c.precision != type) {
      throw RequestError("{} contradicts precision {}", own->at("enabled").where(), c.precision);
    }
    c.precision = type;
  }
}

void take_offload(const JsonView& file, TrainConfig& c, const Options& options) {
  const auto zero = section(file, "zero_optimization");
  if (!zero) return;
  const auto goes = [&](const char* key, const char* flag) {
    const auto own = section(*zero, key);
    return own && own->text("device", "none") != "none" && !options.given(flag);
  };
  if (goes("offload_optimizer", "offload_optimizer")) c.engine.offload_optimizer = "true";
  if (goes("offload_param", "offload_frozen")) c.engine.offload_frozen = "true";
}

void take_optimizer(const JsonView& optimizer, TrainConfig& c, const Options& options) {
  const std::string type = optimizer.text("type");
  if (type != "AdamW" && type != "Adam") {
    throw RequestError("{} is {}; there are AdamW and what --optim has", optimizer.at("type").where(), type);
  }
  const auto params = section(optimizer, "params");
  if (!params) return;
  take_number(*params, "lr", c.lr, "lr", options);
  take_number(*params, "eps", c.adam_eps, "adam_eps", options);
  take_number(*params, "weight_decay", c.weight_decay, "weight_decay", options);
  if (!says(*params, "betas")) return;
  const auto betas = params->at("betas").reals();
  if (betas.size() != 2) throw RequestError("{}: two numbers are expected", params->at("betas").where());
  c.beta1 = options.given("beta1") ? c.beta1 : betas[0];
  c.beta2 = options.given("beta2") ? c.beta2 : betas[1];
}

}  // namespace

std::vector<std::string> apply_deepspeed_file(const std::filesystem::path& path, TrainConfig& config,
                                              const Options& options) {
  const JsonView file = read_json(path);
  std::vector<std::string> warnings;
  take_clipping(file, config, options);
  take_precision(file, config);
  take_offload(file, config, options);
  if (const auto optimizer = section(file, "optimizer")) {
    take_optimizer(*optimizer, config, options);
    warnings.push_back(
        fmt::format("--deepspeed {}: parameters keep their groups' rates and decays, of which DeepSpeed's optimizer "
                    "section makes one",
                    path.string()));
  }
  if (const auto scheduler = section(file, "scheduler")) {
    warnings.push_back(fmt::format("--deepspeed {}: its scheduler {} is not followed; --lr_scheduler_type {} is",
                                   path.string(), scheduler->text("type", ""), config.lr_scheduler_type));
  }
  return warnings;
}

}  // namespace tessera::train
