#pragma once
/// AdapterFlags: what `tessera train` and `tessera plan` add to LISA's flags for LoRA, under the names of PEFT's
/// configuration.
/// Source: huggingface/peft tuners/lora/config.py.
#include <string>
#include <string_view>
#include <vector>

#include "tessera/adapt/lora.hpp"
#include "tessera/core/options.hpp"

namespace tessera::train {

struct AdapterFlags {
  std::vector<std::string> target_modules;
  std::vector<std::string> exclude_modules;
  std::vector<std::string> layers_to_transform;  ///< whole numbers
  std::vector<std::string> layers_pattern;
  std::vector<std::string> rank_pattern;   ///< KEY=RANK
  std::vector<std::string> alpha_pattern;  ///< KEY=ALPHA
  bool use_rslora = false;
  bool use_dora = false;
  std::string init_lora_weights = "true";
  std::vector<std::string> modules_to_save;
};

void bind(Options& options, AdapterFlags& flags, const std::string& group);

/// Sets the configuration accordingly. target_modules replaces the configuration's targets and LISA's exclusions: one
/// value "all-linear", one regular expression (a value with a character that no name has) for the whole name, or names.
/// Throws RequestError naming the flag: a pattern without '=', what is no number.
void apply(const AdapterFlags& flags, adapt::LoraConfig& config);

/// Throws RequestError naming the first flag that is set although there is no LoRA, and what it needs.
void check_no_adapter(const AdapterFlags& flags, std::string_view needs = "--lora_r above 0");

}  // namespace tessera::train
