#include "tessera/train/adapter_start.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "tessera/adapt/peft_config.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"

namespace tessera::train {

namespace {

namespace fs = std::filesystem;

// Takes settings from one adapter_config.json; a flag that was given must agree.
class Taker {
 public:
  Taker(const std::function<bool(std::string_view)>& given, const fs::path& folder) : given_(given), folder_(folder) {}

  template <class Value>
  void take(std::string_view flag, Value& own, const Value& saved) const {
    if (given_(flag) && own != saved)
      throw RequestError("--{} {} contradicts --adapter {}: that adapter has {}", flag, own, folder_.string(), saved);
    own = saved;
  }
  // What a training may change.
  template <class Value, class Saved>
  void suggest(std::string_view flag, Value& own, const Saved& saved) const {
    if (!given_(flag)) own = saved;
  }
  bool given(std::string_view flag) const { return given_(flag); }
  [[noreturn]] void refuse(std::string_view flag, std::string_view why) const {
    throw RequestError("--{} contradicts --adapter {}: {}", flag, folder_.string(), why);
  }

 private:
  const std::function<bool(std::string_view)>& given_;
  const fs::path& folder_;
};

std::string init_name(adapt::LoraInit init) {
  using adapt::LoraInit;
  if (init == LoraInit::gaussian) return "gaussian";
  if (init == LoraInit::pissa) return "pissa";
  if (init == LoraInit::olora) return "olora";
  return init == LoraInit::kaiming ? "true" : "false";
}

std::string bias_name(const adapt::LoraConfig& saved) {
  if (saved.bias) return "true";
  if (saved.base_bias == adapt::BaseBias::all) return "all";
  return saved.base_bias == adapt::BaseBias::lora_only ? "lora_only" : "none";
}

// total_step is not taken: it counts the steps of the run that the adapter comes from.
void take_adalora(const Taker& taker, AdapterFlags& f, const adapt::AdaLoraConfig& saved) {
  std::int64_t init_r = f.init_r.value_or(saved.init_r);
  taker.take("init_r", init_r, saved.init_r);
  f.init_r = init_r;
  taker.suggest("target_r", f.target_r, saved.target_r);
  taker.suggest("tinit", f.tinit, saved.tinit);
  taker.suggest("tfinal", f.tfinal, saved.tfinal);
  taker.suggest("deltaT", f.delta_t, saved.delta_t);
  taker.suggest("adalora_beta1", f.ada_beta1, saved.beta1);
  taker.suggest("adalora_beta2", f.ada_beta2, saved.beta2);
  taker.suggest("orth_reg_weight", f.orth_reg_weight, saved.orth_reg_weight);
}

// Whether flags by PEFT's rules say which layers get an adapter.
bool names_layers(const AdapterFlags& f) {
  return !(f.target_modules.empty() && f.exclude_modules.empty() && f.layers_to_transform.empty() &&
           f.layers_pattern.empty());
}

void take_lora(const Taker& taker, TrainConfig& c, const adapt::LoraConfig& saved) {
  auto& f = c.adapter;
  if (c.recipe == "llava") {
    if (taker.given("lora_enable") && !c.lora_enable) taker.refuse("lora_enable false", "that is a LoRA");
    c.lora_enable = true;
  }
  if (taker.given("lora_r") && c.lora_r == 0) taker.refuse("lora_r 0", "that is a LoRA");
  if (saved.adalora) {
    take_adalora(taker, f, *saved.adalora);
    c.lora_r = std::max<std::int64_t>(c.lora_r, 1);  // of no effect beside init_r, but for the zero
  } else {
    taker.take("lora_r", c.lora_r, saved.rank);
  }
  taker.take("peft_type", f.peft_type, std::string(saved.adalora ? "adalora" : "lora"));
  taker.take("lora_alpha", c.lora_alpha, saved.alpha);
  taker.take("use_rslora", f.use_rslora, saved.rslora);
  taker.take("use_dora", f.use_dora, saved.dora);
  taker.take("init_lora_weights", f.init_lora_weights, init_name(saved.init));
  if (f.lora_bias == "false") f.lora_bias = "none";
  taker.take("lora_bias", f.lora_bias, bias_name(saved));
  taker.suggest("lora_dropout", c.lora_dropout, saved.dropout);
  const auto sorted = [](std::vector<std::string> names) {
    std::sort(names.begin(), names.end());
    return names;
  };
  if (taker.given("modules_to_save") && sorted(f.modules_to_save) != sorted(saved.modules_to_save))
    taker.refuse("modules_to_save", "it holds other modules");
  f.modules_to_save = saved.modules_to_save;
  // Layers are those of the adapter's file; a default must not name others.
  if (!names_layers(f) && !taker.given("lora_target_modules")) c.lora_target_modules.clear();
}

void take_prefix(const Taker& taker, TrainConfig& c, const adapt::PrefixConfig& saved) {
  auto& f = c.adapter;
  taker.take("num_virtual_tokens", f.num_virtual_tokens, saved.num_virtual_tokens);
  if (taker.given("prefix_projection") && f.prefix_projection)
    taker.refuse("prefix_projection", "the file holds the network's output alone, which is what trains on");
}

}  // namespace

void settle_adapters(TrainConfig& c, const std::function<bool(std::string_view)>& given) {
  std::erase(c.adapters, std::string());  // what LLaVA's scripts give for none
  std::optional<fs::path> lora, prefix;
  for (const std::string& name : c.adapters) {
    const fs::path folder = name;
    const Taker taker(given, folder);
    auto& of_kind = adapt::peft_type(folder) == "PREFIX_TUNING" ? prefix : lora;
    if (of_kind) throw RequestError("--adapter {} {}: two adapters of one kind; merge one", of_kind->string(), name);
    of_kind = folder;
    const JsonView json = read_json(folder / "adapter_config.json");
    if (&of_kind == &prefix) {
      take_prefix(taker, c, {.num_virtual_tokens = json.integer("num_virtual_tokens")});
    } else {
      take_lora(taker, c, adapt::lora_config_from_json(json));
    }
  }
  // A prefix that was trained alone goes on alone.
  if (prefix && !lora && !given("lora_r")) c.lora_r = 0;
}

io::SourcePtr AdapterStart::over_base(io::SourcePtr base) const {
  if (!lora || !lora->replaced) return base;
  return std::make_shared<io::OverlaySource>(std::vector<io::SourcePtr>{lora->replaced, std::move(base)});
}

io::SourcePtr AdapterStart::over(io::SourcePtr weights) const {
  std::vector<io::SourcePtr> sources;
  if (lora) sources.push_back(lora->weights);
  if (prefix) sources.push_back(prefix->weights);
  if (sources.empty()) return weights;
  sources.push_back(std::move(weights));
  return std::make_shared<io::OverlaySource>(sources);
}

AdapterStart open_adapters(const TrainConfig& config, const adapt::Rename& rename) {
  AdapterStart start;
  for (const std::string& name : config.adapters) {
    const fs::path folder = name;
    if (adapt::peft_type(folder) == "PREFIX_TUNING") {
      start.prefix.emplace(AdapterStart::OfPrefix{adapt::open_prefix_folder(folder), folder});
    } else {
      start.lora.emplace(AdapterStart::LoraFolder{adapt::open_peft_folder(folder, rename), folder});
    }
  }
  return start;
}

namespace {

void check_layers(const AdapterStart::LoraFolder& adapter, const adapt::LoraConfig& flags,
                  const nn::ModelLayout& layout) {
  const auto named = adapt::lora_targets(layout, flags);
  const std::set<std::string> wanted(named.begin(), named.end());
  const std::set<std::string> there(adapter.config.targets.begin(), adapter.config.targets.end());
  const auto refuse = [&](const std::string& layer, std::string_view who) {
    throw RequestError("--target_modules contradicts --adapter {}: layer '{}' has an adapter by the {} alone",
                       adapter.path.string(), layer, who);
  };
  for (const auto& layer : wanted) {
    if (!there.contains(layer)) refuse(layer, "flags");
  }
  for (const auto& layer : there) {
    if (!wanted.contains(layer)) refuse(layer, "folder");
  }
}

void check_patterns(const AdapterStart::LoraFolder& adapter, const adapt::LoraConfig& flags) {
  for (const std::string& name : adapter.config.targets) {
    const auto wanted = flags.layer(name), there = adapter.config.layer(name);
    if (!flags.rank_pattern.empty() && wanted.rank != there.rank)
      throw RequestError("--rank_pattern contradicts --adapter {}: layer '{}' has rank {}, not {}",
                         adapter.path.string(), name, there.rank, wanted.rank);
    if (!flags.alpha_pattern.empty() && wanted.alpha != there.alpha)
      throw RequestError("--alpha_pattern contradicts --adapter {}: layer '{}' has alpha {}, not {}",
                         adapter.path.string(), name, there.alpha, wanted.alpha);
  }
}

}  // namespace

adapt::LoraConfig started_config(const AdapterStart::LoraFolder& adapter, const TrainConfig& config,
                                 const adapt::LoraConfig& flags, const nn::ModelLayout& layout) {
  if (names_layers(config.adapter) || !config.lora_target_modules.empty()) check_layers(adapter, flags, layout);
  check_patterns(adapter, flags);
  adapt::LoraConfig out = adapter.config;
  out.dropout = flags.dropout;
  out.modules_to_save = flags.modules_to_save;
  if (out.adalora) {
    auto kept = std::move(out.adalora->rank_pattern);
    out.adalora = flags.adalora;
    out.adalora->rank_pattern = std::move(kept);
    out.adalora->check();
  }
  return out;
}

}  // namespace tessera::train
