#include "tessera/train/adapter_flags.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "tessera/core/error.hpp"

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
    for (std::size_t begin = 0; begin <= text.size();) {
      const std::size_t end = std::min(text.find(',', begin), text.size());
      if (end > begin) out.push_back(text.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  return out;
}

adapt::LoraInit init_of(const std::string& text) {
  if (text == "gaussian") return adapt::LoraInit::gaussian;
  return text == "false" ? adapt::LoraInit::both : adapt::LoraInit::kaiming;
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
        "true: A uniform, B zero; gaussian: A normal, B zero; false: neither is zero",
        {.group = group, .choices = {"true", "gaussian", "false"}});
  o.add("modules_to_save", &f.modules_to_save, "modules trained whole and saved with the adapter", info);
}

void apply(const AdapterFlags& f, adapt::LoraConfig& c) {
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
  c.init = init_of(f.init_lora_weights);
  c.modules_to_save = names(f.modules_to_save);
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
  refuse(!f.modules_to_save.empty(), "modules_to_save");
}

}  // namespace tessera::train
