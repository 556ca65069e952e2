#include "tessera/adapt/targets.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <regex>
#include <set>

#include "tessera/core/error.hpp"
#include "tessera/core/options.hpp"

namespace tessera::adapt {
namespace {

constexpr std::size_t kNamesShown = 12;

std::string last_component(std::string_view name) {
  return std::string(name.substr(name.rfind('.') + 1));
}

std::regex compile(const std::string& text, std::string_view what, const std::string& shown) {
  try {
    return std::regex(text, std::regex::ECMAScript);
  } catch (const std::regex_error&) {
    throw RequestError("lora: {} '{}' is no regular expression that is understood here", what, shown);
  }
}

/// One of the names of a list, ready to be matched.
class Matcher {
 public:
  Matcher(const std::string& text, TargetMatch rule, std::string_view what) : text_(text), rule_(rule) {
    if (rule == TargetMatch::regex) expression_ = compile(text, what, text);
  }
  bool operator()(const std::string& name) const {
    switch (rule_) {
      case TargetMatch::substring:
        return name.find(text_) != std::string::npos;
      case TargetMatch::suffix:
        return name == text_ || name.ends_with("." + text_);
      case TargetMatch::exact:
        return name == text_;
      case TargetMatch::regex:
        return std::regex_match(name, expression_);
      case TargetMatch::all_linear:
        return last_component(name) != "lm_head";
    }
    return false;
  }
  /// PEFT takes a list's full names whatever their index.
  bool by_index(const std::string& name) const { return rule_ == TargetMatch::suffix && name != text_; }

 private:
  std::string text_;
  TargetMatch rule_;
  std::regex expression_;
};

std::vector<Matcher> matchers(const std::vector<std::string>& texts, TargetMatch rule, std::string_view what) {
  std::vector<Matcher> out;
  for (const std::string& text : texts) out.emplace_back(text, rule, what);
  return out;
}

/// The rule of layers_to_transform.
class LayerIndex {
 public:
  explicit LayerIndex(const Targets& rules) : wanted_(rules.layers_to_transform), used_(wanted_.size(), false) {
    std::vector<std::string> components = rules.layers_pattern;
    if (components.empty()) components.emplace_back("[^.]*");
    for (const std::string& component : components) {
      expressions_.push_back(compile(".*\\." + component + "\\.(\\d+)\\.", "layers_pattern", component));
    }
  }
  bool operator()(const std::string& name) {
    if (wanted_.empty()) return true;
    for (const std::regex& expression : expressions_) {
      std::smatch found;
      if (!std::regex_search(name, found, expression, std::regex_constants::match_continuous)) continue;
      const auto at = std::find(wanted_.begin(), wanted_.end(), std::stoll(found[found.size() - 1].str()));
      if (at == wanted_.end()) return false;
      used_[static_cast<std::size_t>(at - wanted_.begin())] = true;
      return true;
    }
    return false;
  }
  void check_used() const {
    for (std::size_t i = 0; i < used_.size(); ++i) {
      if (!used_[i]) throw RequestError("lora: no target layer has index {} (layers_to_transform)", wanted_[i]);
    }
  }

 private:
  std::vector<std::int64_t> wanted_;
  std::vector<bool> used_;
  std::vector<std::regex> expressions_;
};

/// A module that is trained whole, or one inside it.
bool inside_saved(const std::string& name, const std::vector<std::string>& modules) {
  return std::any_of(modules.begin(), modules.end(), [&](const std::string& module) {
    return std::regex_match(name, compile("(?:|.*\\.)" + module + "(?:|\\..*)", "modules_to_save", module));
  });
}

void check(const Targets& rules) {
  if (rules.targets.empty() && rules.match != TargetMatch::all_linear)
    throw RequestError("lora: no target modules are named");
  if (!rules.layers_to_transform.empty() && rules.match != TargetMatch::suffix)
    throw RequestError("lora: layers_to_transform needs target_modules as a list of names");
  if (!rules.layers_pattern.empty() && rules.layers_to_transform.empty())
    throw RequestError("lora: layers_pattern needs layers_to_transform");
}

}  // namespace

std::string suggestion(std::string_view wanted, const std::vector<std::string>& names) {
  const std::string near = nearest_name(wanted, names);
  if (!near.empty()) return "; did you mean '" + near + "'?";
  std::set<std::string> parts;
  for (const std::string& name : names) parts.insert(last_component(name));
  const bool more = parts.size() > kNamesShown;
  while (parts.size() > kNamesShown) parts.erase(std::prev(parts.end()));
  return fmt::format("; there are {}{}", fmt::join(parts, ", "), more ? ", …" : "");
}

std::vector<std::shared_ptr<nn::LayerState>> find_targets(const nn::ModelLayout& layout, const Targets& rules) {
  check(rules);
  const auto targets = rules.match == TargetMatch::all_linear ? std::vector{Matcher("", rules.match, "")}
                                                              : matchers(rules.targets, rules.match, "target");
  const auto excluded = matchers(rules.exclude_modules, rules.exclude_match, "exclude_modules");
  const auto never = matchers(rules.exclude, TargetMatch::substring, "exclude");
  LayerIndex in_layers(rules);
  std::vector<std::shared_ptr<nn::LayerState>> found;
  std::vector<bool> used(targets.size(), false), excluding(excluded.size(), false);
  std::vector<std::string> names;  // that could have been meant
  const bool linears = rules.match == TargetMatch::all_linear || rules.match == TargetMatch::substring;
  for (const auto& layer : layout.layers()) {
    if (linears && layer->kind != nn::LayerKind::linear) continue;
    const std::string& name = layer->name;
    if (std::any_of(never.begin(), never.end(), [&](const Matcher& m) { return m(name); })) continue;
    names.push_back(rules.match == TargetMatch::regex ? name : last_component(name));
    bool out = inside_saved(name, rules.modules_to_save);
    for (std::size_t i = 0; i < excluded.size(); ++i) {
      if (!excluded[i](name)) continue;
      excluding[i] = true;
      out = true;
    }
    bool wanted = false;
    for (std::size_t i = 0; i < targets.size(); ++i) {
      if (!targets[i](name)) continue;
      used[i] = true;
      wanted = wanted || !targets[i].by_index(name) || in_layers(name);
    }
    if (wanted && !out) found.push_back(layer);
  }
  for (std::size_t i = 0; i < used.size(); ++i) {
    if (used[i]) continue;
    const std::string text = rules.match == TargetMatch::all_linear ? "all-linear" : rules.targets[i];
    throw RequestError("lora: no layer matches target '{}'{}", text,
                       suggestion(rules.match == TargetMatch::regex ? text : last_component(text), names));
  }
  for (std::size_t i = 0; i < excluding.size(); ++i) {
    if (excluding[i]) continue;
    throw RequestError("lora: no layer matches exclude_modules '{}'{}", rules.exclude_modules[i],
                       suggestion(last_component(rules.exclude_modules[i]), names));
  }
  in_layers.check_used();
  if (found.empty()) throw RequestError("lora: every layer that a target matches is excluded");
  return found;
}

bool pattern_matches(const std::string& key, const std::string& name) {
  return std::regex_match(name, compile("(?:.*\\.)?(?:" + key + ")", "pattern", key));
}

std::vector<nn::Param> saved_modules(const nn::ModelLayout& layout, const std::vector<std::string>& modules) {
  std::vector<nn::Param> saved;
  std::vector<bool> used(modules.size(), false);
  std::vector<std::string> names;
  for (const nn::Param& param : layout.params()) {
    if (layout.unit(param->unit).fused) continue;
    bool wanted = false;
    for (std::size_t dot = param->name.find('.'); dot != std::string::npos; dot = param->name.find('.', dot + 1)) {
      const std::string module = param->name.substr(0, dot);
      names.push_back(last_component(module));
      for (std::size_t i = 0; i < modules.size(); ++i) {
        if (!module.ends_with(modules[i])) continue;
        used[i] = true;
        wanted = true;
      }
    }
    if (wanted) saved.push_back(param);
  }
  for (std::size_t i = 0; i < used.size(); ++i) {
    if (used[i]) continue;
    throw RequestError("lora: no module matches modules_to_save '{}'{}", modules[i],
                       suggestion(last_component(modules[i]), names));
  }
  return saved;
}

}  // namespace tessera::adapt
