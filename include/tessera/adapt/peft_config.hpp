#pragma once
/// PEFT's adapter_config.json, and the names of an adapter's tensors in its file.
/// Source: huggingface/peft tuners/lora/config.py, utils/save_and_load.py.
#include <string>
#include <string_view>

#include "tessera/adapt/lora.hpp"
#include "tessera/core/json.hpp"

namespace tessera::adapt {

/// The name in adapter_model.safetensors: "base_model.model." + name without ".default"; a magnitude loses ".weight"
/// too.
std::string peft_file_name(std::string_view param_name);
/// The inverse, from any of PEFT's spellings. "" when it is no LoRA weight.
std::string param_name_of_peft(std::string_view file_name);

/// adapter_config.json for this adapter as PEFT reads it. Targets given by PEFT's rules are written as they were given;
/// for any other, target_modules are the full names of the layers, so that PEFT's suffix rule finds exactly these.
/// Patterns are written as given where PEFT, which sorts them, resolves them alike, and else by full names.
std::string peft_config_json(const Lora& lora, const std::string& base_model);

/// PEFT's adapter_config.json, without its targets: which layers are adapted is read from the adapter's own tensors.
/// Throws RequestError naming the key: another kind of adapter, or an option that changes the mathematics and is not
/// supported (target_parameters, fan_in_fan_out, an initialisation that changed the base, …).
LoraConfig lora_config_from_json(const JsonView& json);

}  // namespace tessera::adapt
