#pragma once
/// Rates by name: patterns that give parameters a learning rate and a decay of their own, beside the groups that a
/// recipe has by itself. Pure.
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "tessera/train/recipe.hpp"

namespace tessera::train {

/// A rule for the parameters in whose names the expression is found.
struct RatePattern {
  std::string text;       ///< of the expression, ECMAScript's
  std::regex expression;  ///< the same, compiled
  double lr = 0;          ///< peak; the schedule multiplies it
  std::optional<double> weight_decay;
};

/// "REGEX=LR" or "REGEX=LR:DECAY"; the last '=' divides. Throws RequestError naming --lr_groups.
RatePattern rate_pattern(const std::string& text);

/// `groups` divided by the patterns: of several that are found in a name the first counts. What a recipe trains without
/// decay (biases and norms of LLaVA) stays without, whatever a pattern says. A group that all its parameters have left
/// is dropped. Throws RequestError for a pattern that is found in no parameter that trains, with the nearest names.
ParamGroups divided(const ParamGroups& groups, const nn::ModelLayout& layout, const std::vector<RatePattern>& patterns);

/// The recipe's groups, divided by config.optimization.lr_groups.
ParamGroups param_groups(const Recipe& recipe, const nn::ModelLayout& layout, const TrainConfig& config);

}  // namespace tessera::train
