#include "tessera/train/param_groups.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "tessera/core/error.hpp"
#include "tessera/core/options.hpp"

namespace tessera::train {

namespace {

constexpr std::size_t kNamesShown = 12;

double rate(std::string_view text, const std::string& whole) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0))
    throw RequestError("--lr_groups '{}': '{}' is no rate; REGEX=LR or REGEX=LR:DECAY is expected", whole, text);
  return value;
}

// Words of a name or an expression: runs of letters, digits and underscores that are no number.
std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> out;
  std::string word;
  auto flush = [&] {
    if (word.find_first_not_of("0123456789") != std::string::npos) out.push_back(word);
    word.clear();
  };
  for (const char c : text) {
    const bool part = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    part ? word.push_back(c) : flush();
  }
  flush();
  return out;
}

// What could have been meant: for each word of the pattern that no name has, the nearest that one has.
std::string nearest_names(const std::string& pattern, const nn::ModelLayout& layout) {
  std::set<std::string> known;
  for (const auto& p : layout.params()) {
    if (!p->trainable) continue;
    for (auto& word : words_of(p->name)) known.insert(std::move(word));
  }
  const std::vector<std::string> names(known.begin(), known.end());
  std::vector<std::string> near;
  for (const auto& word : words_of(pattern)) {
    if (known.contains(word)) continue;
    if (auto found = nearest_name(word, names); !found.empty()) near.push_back("'" + found + "'");
  }
  if (!near.empty()) return fmt::format("did you mean {}?", fmt::join(near, ", "));
  const auto shown = std::min(names.size(), kNamesShown);
  return fmt::format("their names have {}{}", fmt::join(names.begin(), names.begin() + static_cast<long>(shown), ", "),
                     names.size() > shown ? ", …" : "");
}

}  // namespace

RatePattern rate_pattern(const std::string& text) {
  const auto at = text.rfind('=');
  if (at == std::string::npos || at == 0)
    throw RequestError("--lr_groups '{}': REGEX=LR or REGEX=LR:DECAY is expected", text);
  RatePattern out;
  out.text = text.substr(0, at);
  const std::string rates = text.substr(at + 1);
  const auto colon = rates.find(':');
  out.lr = rate(std::string_view(rates).substr(0, colon), text);
  if (colon != std::string::npos) out.weight_decay = rate(std::string_view(rates).substr(colon + 1), text);
  try {
    out.expression = std::regex(out.text, std::regex::ECMAScript);
  } catch (const std::regex_error&) {
    throw RequestError("--lr_groups '{}': '{}' is no regular expression that is understood here", text, out.text);
  }
  return out;
}

ParamGroups divided(const ParamGroups& groups, const nn::ModelLayout& layout,
                    const std::vector<RatePattern>& patterns) {
  if (patterns.empty()) return groups;
  // A new group for each pair of an old one and a pattern (the last index: none) that some parameter has.
  using Key = std::pair<std::size_t, std::size_t>;
  const auto key_of = [&groups, patterns](const nn::ParamState& p) {
    const auto found = std::find_if(patterns.begin(), patterns.end(), [&](const RatePattern& pattern) {
      return std::regex_search(p.name, pattern.expression);
    });
    return Key{groups.group_of(p), static_cast<std::size_t>(found - patterns.begin())};
  };
  std::map<const nn::ParamState*, Key> keys;
  std::map<Key, std::size_t> numbers;
  std::vector<bool> used(patterns.size() + 1, false);
  for (const auto& p : layout.params()) {
    if (!p->trainable) continue;
    for (std::size_t i = 0; i < patterns.size(); ++i)
      used[i] = used[i] || std::regex_search(p->name, patterns[i].expression);
    keys[p.get()] = key_of(*p);
    numbers[keys[p.get()]] = 0;
  }
  for (std::size_t i = 0; i < patterns.size(); ++i) {
    if (!used[i]) {
      throw RequestError("--lr_groups '{}' is found in no parameter that trains: {}", patterns[i].text,
                         nearest_names(patterns[i].text, layout));
    }
  }
  ParamGroups out;
  for (auto& [key, number] : numbers) {
    number = out.groups.size();
    auto group = groups.groups.at(key.first);
    if (key.second < patterns.size()) {
      const auto& pattern = patterns[key.second];
      group.name += "/" + pattern.text;
      group.lr = pattern.lr;
      if (pattern.weight_decay && group.decays) group.weight_decay = *pattern.weight_decay;
    }
    out.groups.push_back(std::move(group));
  }
  std::map<const nn::ParamState*, std::size_t> group_numbers;
  for (const auto& [param, key] : keys) group_numbers[param] = numbers.at(key);
  out.group_of = [group_numbers = std::move(group_numbers)](const nn::ParamState& p) { return group_numbers.at(&p); };
  return out;
}

ParamGroups param_groups(const Recipe& recipe, const nn::ModelLayout& layout, const TrainConfig& config) {
  std::vector<RatePattern> patterns;
  for (const auto& text : config.optimization.lr_groups) patterns.push_back(rate_pattern(text));
  return divided(recipe.param_groups(layout), layout, patterns);
}

}  // namespace tessera::train
