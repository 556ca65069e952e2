#pragma once
/// A training that starts from saved adapters (--adapter): PEFT's folder of a LoRA or its kin, of a prefix, or one of
/// each. What the folder's adapter_config.json says an adapter is goes into the flags, and the weights that it holds
/// come before the base's. Not collective; every rank calls it with the same flags.
/// Source: huggingface/peft PeftModel.from_pretrained(is_trainable=True).
#include <filesystem>
#include <functional>
#include <optional>
#include <string_view>

#include "tessera/adapt/peft_folder.hpp"
#include "tessera/adapt/prefix.hpp"
#include "tessera/train/config.hpp"

namespace tessera::train {

/// Sets rank, alpha, kind, initialisation, biases, modules_to_save and a prefix's length as the folders have them, and
/// the dropout and AdaLoRA's schedule where no flag says otherwise: they are the training's. `given`: whether a flag
/// was set. Flags that name layers are left to started_config. Throws RequestError naming flag and folder: a flag that
/// was given and contradicts, two adapters of one kind, no adapter there.
void settle_adapters(TrainConfig& config, const std::function<bool(std::string_view)>& given);

struct AdapterStart {
  struct LoraFolder : adapt::PeftFolder {
    std::filesystem::path path;
  };
  struct OfPrefix : adapt::PrefixFolder {
    std::filesystem::path path;
  };
  std::optional<LoraFolder> lora;
  std::optional<OfPrefix> prefix;

  /// The base with the weights that were trained whole beside the adapter.
  io::SourcePtr over_base(io::SourcePtr base) const;
  /// `weights` with the matrices of the adapters.
  io::SourcePtr over(io::SourcePtr weights) const;
};
/// The folders of a configuration that settle_adapters has seen. Throws RequestError as open_peft_folder does.
AdapterStart open_adapters(const TrainConfig& config, const adapt::Rename& rename);

/// The saved adapter's configuration with what is the training's own: dropout, AdaLoRA's schedule, modules_to_save
/// under the layout's names. `flags`: what the flags would make of a new adapter. Throws RequestError for flags that
/// name other layers, ranks or alphas than the adapter has.
adapt::LoraConfig started_config(const AdapterStart::LoraFolder& adapter, const TrainConfig& config,
                                 const adapt::LoraConfig& flags, const nn::ModelLayout& layout);

}  // namespace tessera::train
