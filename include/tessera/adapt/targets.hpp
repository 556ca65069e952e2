#pragma once
/// Which layers of a layout get an adapter: PEFT's rules and LISA's, over the full names of the layers, whatever part
/// of the model they are in (language model, vision tower, projector, SAM). LISA's substrings and PEFT's all-linear are
/// for linear layers; names and expressions find embeddings and convolutions as well. Regular expressions are
/// ECMAScript's, which agree with Python's `re` in all but lookbehind and named groups. Source: huggingface/peft
/// tuners/tuners_utils.py (target_modules, exclude_modules, layers_to_transform, "all-linear"), utils/other.py (keys of
/// rank_pattern and alpha_pattern); dvlab-research/LISA train_ds.py (substrings).
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/nn/layers.hpp"
#include "tessera/nn/param.hpp"

namespace tessera::adapt {

/// How a target is matched against a layer's full name.
enum class TargetMatch : std::uint8_t {
  substring,   ///< LISA's: the name contains the target
  suffix,      ///< PEFT's list: the name is the target or ends in "." + target
  exact,       ///< the name is the target
  regex,       ///< PEFT's single string: the whole name matches the target
  all_linear,  ///< PEFT's "all-linear": every linear layer but the head; `targets` is not looked at
};

struct Targets {
  std::vector<std::string> targets = {"q_proj", "v_proj"};
  TargetMatch match = TargetMatch::substring;
  /// A layer whose name contains one of these is never a target. LISA's; PEFT has none.
  std::vector<std::string> exclude = {"visual_model", "vision_tower", "mm_projector", "text_hidden_fcs"};
  /// PEFT's exclude_modules, by suffix or regex.
  std::vector<std::string> exclude_modules;
  TargetMatch exclude_match = TargetMatch::suffix;
  /// Of the layers that a target matches by suffix, those with one of these indices alone; empty: all. The index is the
  /// number behind a component of `layers_pattern` (regular expressions), or, when that is empty, behind any.
  std::vector<std::int64_t> layers_to_transform;
  std::vector<std::string> layers_pattern;
  /// Modules that are trained whole get no adapter.
  std::vector<std::string> modules_to_save;
};

/// The layers that get an adapter, in layout order. Throws RequestError: nothing named, a target, an exclusion or a
/// layer index that no layer has (with the nearest names), a malformed expression, rules that PEFT does not combine.
std::vector<std::shared_ptr<nn::LayerState>> find_targets(const nn::ModelLayout& layout, const Targets& rules);

/// Whether a key of rank_pattern or alpha_pattern is for this layer: the expression matches the name, or its end from a
/// dot on. Throws RequestError for a malformed expression.
bool pattern_matches(const std::string& key, const std::string& name);

/// PEFT's modules_to_save: the weights of every module whose name ends in one of `modules`, in layout order, adapters'
/// own left out. Throws RequestError for one that no module has, with the nearest.
std::vector<nn::Param> saved_modules(const nn::ModelLayout& layout, const std::vector<std::string>& modules);

/// "; did you mean 'x'?", or the last components there are when none is near.
std::string suggestion(std::string_view wanted, const std::vector<std::string>& names);

}  // namespace tessera::adapt
