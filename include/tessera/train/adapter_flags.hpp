#pragma once
/// AdapterFlags: what `tessera train` and `tessera plan` add to LISA's flags for LoRA and its kin, under the names of
/// PEFT's configurations.
/// Source: huggingface/peft tuners/lora/config.py, tuners/adalora/config.py,
/// tuners/prefix_tuning/config.py.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/adapt/lora.hpp"
#include "tessera/adapt/prefix.hpp"
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
  std::string lora_bias = "none";  ///< none, true (PEFT's lora_bias), all, lora_only (PEFT's and LLaVA's `bias`)
  std::vector<std::string> modules_to_save;
  std::string peft_type = "lora";  ///< lora, adalora
  // AdaLoRA's, PEFT's defaults where they are absent
  std::optional<std::int64_t> target_r, init_r, tinit, tfinal, delta_t, total_step;
  std::optional<double> ada_beta1, ada_beta2, orth_reg_weight;
  // prefix tuning, alone or beside LoRA
  std::int64_t num_virtual_tokens = 0;
  bool prefix_projection = false;
  std::int64_t encoder_hidden_size = 0;
};

void bind(Options& options, AdapterFlags& flags, const std::string& group);

/// Sets the configuration accordingly. target_modules replaces the configuration's targets and LISA's exclusions: one
/// value "all-linear", one regular expression (a value with a character that no name has) for the whole name, or names.
/// `steps`: of the run, AdaLoRA's total_step where the flag does not say. Throws RequestError naming the flag: a
/// pattern without '=', what is no number, an AdaLoRA's flag without --peft_type adalora.
void apply(const AdapterFlags& flags, adapt::LoraConfig& config, std::int64_t steps = 0);

/// With --lora_bias all the biases of the language model train, with lora_only those of the adapted layers: marks them
/// and puts them among those that are saved with the adapter. Returns how many.
std::int64_t mark_biases(const AdapterFlags& flags, const nn::ModelLayout& layout, adapt::Lora& lora);

/// The prefix that is asked for; nothing without --num_virtual_tokens. Throws RequestError for its other flags then.
std::optional<adapt::PrefixConfig> prefix_of(const AdapterFlags& flags);

/// Throws RequestError naming the first flag that is set although there is no LoRA, and what it needs. A prefix's
/// flags are not LoRA's.
void check_no_adapter(const AdapterFlags& flags, std::string_view needs = "--lora_r above 0");

}  // namespace tessera::train
