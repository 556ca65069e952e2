#pragma once
/// What a run leaves for others: the adapter as PEFT reads it, the other trained weights, and a merged model folder as
/// transformers and LISA read it. Every tensor is gathered with its unit, one unit at a time, and streamed to the file:
/// no rank ever holds the model. Collective; rank 0 writes.
#include <filesystem>
#include <string>

#include "tessera/core/log.hpp"
#include "tessera/train/model_setup.hpp"

namespace tessera::train {

/// `dir/adapter_config.json`, `dir/adapter_model.safetensors` (modules_to_save's weights and --lora_bias's biases are
/// in it), and the model's `dir/config.json`, which LLaVA's loader looks for beside an adapter; `precision` is what it
/// says of the weights. Over a LLaVA in transformers' form the adapter has the names of transformers' modules, for PEFT
/// over its class.
void export_adapter(LoadedModel& model, const std::string& base_model, const std::filesystem::path& dir,
                    const std::string& precision);

/// Trained weights that are not in the adapter's file, and what came with the adapter that the training started from,
/// fp32: with LoRA `dir/non_lora_trainables.bin` as LLaVA's trainer
/// writes it beside the adapter, under PEFT's names (from 3.9 GiB on as safetensors); without LoRA
/// `dir/non_lora_trainables.safetensors`, under the model's own.
void export_other_trained(LoadedModel& model, const std::filesystem::path& dir);

/// A prefix as PEFT saves it: `dir/adapter_model.safetensors` with `prompt_embeddings`, adapter_config.json.
void export_prefix(LoadedModel& model, const std::string& base_model, const std::filesystem::path& dir);

/// `dir/mm_projector.bin` as LLaVA's first stage leaves it: the projector alone, fp32, in a file that torch.load reads.
void export_projector(LoadedModel& model, const std::filesystem::path& dir);

/// Weights with the adapter merged in (fp32 arithmetic, then `precision`), config.json, tokenizer files. CLIP is left
/// out when the config names its folder and it did not train, as the reference does.
void export_merged(LoadedModel& model, const std::filesystem::path& dir, const std::string& precision, const Log& log);

}  // namespace tessera::train
