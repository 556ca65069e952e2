#include "tessera/train/adapter_flags.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "name_parts.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/split.hpp"

namespace tessera::train {
namespace {

constexpr std::string_view kNameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.,";

template <class Number>
Number number(std::string_view text, std::string_view flag, std::string_view what) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    throw RequestError("--{} '{}': {} is expected", flag, text, what);
  return value;
}

template <class Number>
std::vector<std::pair<std::string, Number>> patterns(const std::vector<std::string>& texts, std::string_view flag,
                                                     std::string_view what) {
  std::vector<std::pair<std::string, Number>> out;
  for (const std::string& text : texts) {
    const std::size_t at = text.rfind('=');
    if (at == std::string::npos || at == 0) throw RequestError("--{} '{}': KEY=VALUE is expected", flag, text);
    out.emplace_back(text.substr(0, at), number<Number>(std::string_view(text).substr(at + 1), flag, what));
  }
  return out;
}

bool is_expression(const std::vector<std::string>& texts) {
  return texts.size() == 1 && texts.front().find_first_not_of(kNameCharacters) != std::string::npos;
}

/// Names, also where several stand in one value with commas between them.
std::vector<std::string> names(const std::vector<std::string>& texts) {
  std::vector<std::string> out;
  for (const std::string& text : texts) {
    for (auto& name : split_names(text, ",")) out.push_back(std::move(name));
  }
  return out;
}

void set_init(const std::string& text, adapt::LoraConfig& c) {
  using adapt::LoraInit;
  constexpr std::string_view kIterations = "pissa_niter_";
  if (text.starts_with(kIterations)) {
    c.init = LoraInit::pissa;
    c.pissa_iterations = number<std::int64_t>(std::string_view(text).substr(kIterations.size()), "init_lora_weights",
                                              "pissa_niter_ and a whole number");
    if (c.pissa_iterations < 0) throw RequestError("--init_lora_weights '{}': fewer than no iterations", text);
    return;
  }
  const std::map<std::string, LoraInit> known{{"true", LoraInit::kaiming},
                                              {"gaussian", LoraInit::gaussian},
                                              {"false", LoraInit::both},
                                              {"pissa", LoraInit::pissa},
                                              {"olora", LoraInit::olora}};
  const auto found = known.find(text);
  if (found == known.end())
    throw RequestError(
        "--init_lora_weights '{}' is unknown; choose true, false, gaussian, pissa, pissa_niter_N or olora", text);
  c.init = found->second;
}

void bind_adalora(Options& o, AdapterFlags& f, const std::string& group) {
  o.add("peft_type", &f.peft_type, "lora (with use_dora: DoRA), or adalora: ranks are moved to where they matter",
        {.group = group, .choices = {"lora", "adalora"}});
  const auto count = [&](std::int64_t least) { return OptionInfo{.group = group, .min = least}; };
  const OptionInfo real{.group = group};
  o.add("init_r", &f.init_r, "AdaLoRA: rank of every layer at the start; 12", count(1));
  o.add("target_r", &f.target_r, "AdaLoRA: mean rank of the layers in the end; 8", count(1));
  o.add("tinit", &f.tinit, "AdaLoRA: steps before ranks begin to fall; 0", count(0));
  o.add("tfinal", &f.tfinal, "AdaLoRA: last steps, in which ranks stay as they are; 0", count(0));
  o.add("deltaT", &f.delta_t, "AdaLoRA: steps from one allocation to the next; 1", count(1));
  o.add("total_step", &f.total_step, "AdaLoRA: steps of the schedule; those of the run", count(1));
  o.add("adalora_beta1", &f.ada_beta1, "AdaLoRA: beta1 of the averages of importance; 0.85", real);
  o.add("adalora_beta2", &f.ada_beta2, "AdaLoRA: beta2 of the averages of importance; 0.85", real);
  o.add("orth_reg_weight", &f.orth_reg_weight, "AdaLoRA: weight of the regulariser that keeps A and B orthogonal; 0.5",
        real);
}

void bind_prefix(Options& o, AdapterFlags& f, const std::string& group) {
  o.add("num_virtual_tokens", &f.num_virtual_tokens,
        "prefix tuning: keys and values learned before those of every row, alone (--lora_r 0) or beside LoRA; 0: none",
        {.group = group, .min = 0});
  o.add("prefix_projection", &f.prefix_projection, "prefix tuning: they are the output of a small network",
        {.group = group});
  o.add("encoder_hidden_size", &f.encoder_hidden_size, "prefix tuning: width of that network; 0: that of the keys",
        {.group = group, .min = 0});
}

/// The first of AdaLoRA's flags that is set.
const char* first_adalora_flag(const AdapterFlags& f) {
  if (f.target_r) return "target_r";
  if (f.init_r) return "init_r";
  if (f.tinit) return "tinit";
  if (f.tfinal) return "tfinal";
  if (f.delta_t) return "deltaT";
  if (f.total_step) return "total_step";
  if (f.ada_beta1) return "adalora_beta1";
  if (f.ada_beta2) return "adalora_beta2";
  return f.orth_reg_weight ? "orth_reg_weight" : nullptr;
}

std::optional<adapt::AdaLoraConfig> adalora_of(const AdapterFlags& f, std::int64_t steps) {
  if (f.peft_type != "adalora") {
    if (const char* flag = first_adalora_flag(f)) throw RequestError("--{} needs --peft_type adalora", flag);
    return std::nullopt;
  }
  if (f.init_lora_weights != "true" && f.init_lora_weights != "false")
    throw RequestError("--init_lora_weights {} is LoRA's; AdaLoRA's A and B are normal", f.init_lora_weights);
  adapt::AdaLoraConfig c;
  c.target_r = f.target_r.value_or(c.target_r);
  c.init_r = f.init_r.value_or(c.init_r);
  c.tinit = f.tinit.value_or(c.tinit);
  c.tfinal = f.tfinal.value_or(c.tfinal);
  c.delta_t = f.delta_t.value_or(c.delta_t);
  c.total_step = f.total_step.value_or(steps);
  c.beta1 = f.ada_beta1.value_or(c.beta1);
  c.beta2 = f.ada_beta2.value_or(c.beta2);
  c.orth_reg_weight = f.orth_reg_weight.value_or(c.orth_reg_weight);
  return c;
}

}  // namespace

void bind(Options& o, AdapterFlags& f, const std::string& group) {
  const OptionInfo info{.group = group};
  o.add("target_modules", &f.target_modules,
        "layers that get LoRA by PEFT's rules, in the place of lora_target_modules and in every part of the model: "
        "names (a layer's own, or its end), one regular expression for the whole name, or all-linear",
        info);
  o.add("exclude_modules", &f.exclude_modules, "layers that get none, by the same rules", info);
  o.add("layers_to_transform", &f.layers_to_transform, "indices of the layers that get LoRA; none: all", info);
  o.add("layers_pattern", &f.layers_pattern, "component before the index, where there are several lists of layers",
        info);
  o.add("rank_pattern", &f.rank_pattern, "other ranks, KEY=RANK; KEY is an expression for a name or its end", info);
  o.add("alpha_pattern", &f.alpha_pattern, "other alphas, KEY=ALPHA", info);
  o.add("use_rslora", &f.use_rslora, "LoRA's scale is lora_alpha / sqrt(lora_r)", info);
  o.add("use_dora", &f.use_dora, "DoRA: the length of every row of an adapted weight is trained apart", info);
  o.add("init_lora_weights", &f.init_lora_weights,
        "true: A uniform, B zero; gaussian: A normal, B zero; false: neither is zero; pissa, olora: both begin in the "
        "base weight, which loses what they take (pissa_niter_N: by N rounds of a randomised decomposition)",
        info);
  o.add(
      "lora_bias", &f.lora_bias,
      "biases that train beside A and B: none; all, the language model's; lora_only, the adapted layers'; true: B has "
      "one of its own (PEFT's lora_bias)",
      {.group = group, .choices = {"none", "all", "lora_only", "true", "false"}});
  o.add("modules_to_save", &f.modules_to_save, "modules trained whole and saved with the adapter", info);
  bind_adalora(o, f, group);
  bind_prefix(o, f, group);
}

void apply(const AdapterFlags& f, adapt::LoraConfig& c, std::int64_t steps) {
  if (!f.target_modules.empty()) {
    c.exclude.clear();
    const bool expression = is_expression(f.target_modules);
    const bool all = f.target_modules.size() == 1 && f.target_modules.front() == "all-linear";
    c.match = all          ? adapt::TargetMatch::all_linear
              : expression ? adapt::TargetMatch::regex
                           : adapt::TargetMatch::suffix;
    c.targets = expression || all ? f.target_modules : names(f.target_modules);
  }
  const bool expression = is_expression(f.exclude_modules);
  c.exclude_match = expression ? adapt::TargetMatch::regex : adapt::TargetMatch::suffix;
  c.exclude_modules = expression ? f.exclude_modules : names(f.exclude_modules);
  c.layers_to_transform.clear();
  for (const std::string& text : names(f.layers_to_transform)) {
    c.layers_to_transform.push_back(number<std::int64_t>(text, "layers_to_transform", "a whole number"));
  }
  c.layers_pattern = f.layers_pattern;
  c.rank_pattern = patterns<std::int64_t>(f.rank_pattern, "rank_pattern", "a whole number");
  c.alpha_pattern = patterns<double>(f.alpha_pattern, "alpha_pattern", "a number");
  c.rslora = f.use_rslora;
  c.dora = f.use_dora;
  c.bias = f.lora_bias == "true";
  c.base_bias = f.lora_bias == "all"         ? adapt::BaseBias::all
                : f.lora_bias == "lora_only" ? adapt::BaseBias::lora_only
                                             : adapt::BaseBias::none;
  set_init(f.init_lora_weights, c);
  c.modules_to_save = names(f.modules_to_save);
  c.adalora = adalora_of(f, steps);
}

std::int64_t mark_biases(const AdapterFlags& f, const nn::ModelLayout& layout, adapt::Lora& lora) {
  std::int64_t marked = 0;
  const auto mark = [&](const nn::Param& bias) {
    bias->trainable = true;
    ++marked;
    if (std::find(lora.saved.begin(), lora.saved.end(), bias) == lora.saved.end()) lora.saved.push_back(bias);
  };
  if (f.lora_bias == "all") {
    for (const auto& p : layout.params()) {
      const bool plain = p->name.ends_with(".bias") && !p->buffer && !layout.unit(p->unit).fused;
      if (plain && in_language_model(p->name)) mark(p);
    }
  } else if (f.lora_bias == "lora_only") {
    for (const auto& layer : lora.layers) {
      if (layer.target->bias) mark(layer.target->bias);
    }
  }
  return marked;
}

std::optional<adapt::PrefixConfig> prefix_of(const AdapterFlags& f) {
  if (f.num_virtual_tokens == 0) {
    if (f.prefix_projection || f.encoder_hidden_size > 0)
      throw RequestError("--{} needs --num_virtual_tokens",
                         f.prefix_projection ? "prefix_projection" : "encoder_hidden_size");
    return std::nullopt;
  }
  if (f.encoder_hidden_size > 0 && !f.prefix_projection)
    throw RequestError("--encoder_hidden_size needs --prefix_projection");
  return adapt::PrefixConfig{f.num_virtual_tokens, f.prefix_projection, f.encoder_hidden_size};
}

void check_no_adapter(const AdapterFlags& f, std::string_view needs) {
  const auto refuse = [needs](bool set, const char* flag) {
    if (set) throw RequestError("--{} needs {}", flag, needs);
  };
  refuse(!f.target_modules.empty(), "target_modules");
  refuse(!f.exclude_modules.empty(), "exclude_modules");
  refuse(!f.layers_to_transform.empty(), "layers_to_transform");
  refuse(!f.layers_pattern.empty(), "layers_pattern");
  refuse(!f.rank_pattern.empty(), "rank_pattern");
  refuse(!f.alpha_pattern.empty(), "alpha_pattern");
  refuse(f.use_rslora, "use_rslora");
  refuse(f.use_dora, "use_dora");
  refuse(f.init_lora_weights != "true", "init_lora_weights");
  refuse(f.lora_bias != "none" && f.lora_bias != "false", "lora_bias");
  refuse(!f.modules_to_save.empty(), "modules_to_save");
  refuse(f.peft_type != "lora", "peft_type");
  if (const char* flag = first_adalora_flag(f)) refuse(true, flag);
}

}  // namespace tessera::train
