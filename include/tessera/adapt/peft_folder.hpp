#pragma once
/// PEFT's adapter folders: adapter_config.json with adapter_model.safetensors or .bin, which also holds the weights of
/// modules_to_save, and, where a trainer left them beside it, non_lora_trainables.safetensors or .bin with weights that
/// were trained whole.
/// Source: huggingface/peft; haotian-liu/LLaVA (non_lora_trainables).
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tessera/adapt/lora.hpp"
#include "tessera/io/model_writer.hpp"
#include "tessera/io/sources.hpp"

namespace tessera::adapt {

struct PeftFolder {
  LoraConfig config;      ///< targets are the adapted layers' full names; rank and alpha of each in `layers`
  io::SourcePtr weights;  ///< "<layer>.lora_A.default.weight" [r, in], "….lora_B.default.weight" [out, r], with DoRA
                          ///< "….lora_magnitude_vector.default.weight" [out], with lora_bias "….lora_B.default.bias"
  io::SourcePtr replaced;                    ///< base weights in the place of the model's own; null when there are none
  std::vector<std::string> trained_whole;    ///< of these, those of modules_to_save and, with `bias`, biases
  std::vector<std::string> modules_to_save;  ///< as adapter_config.json names them
  /// (name of a tensor here, name in the adapter's file)
  std::vector<std::pair<std::string, std::string>> file_names;
};

/// Name of a base weight in this program for the name it has in its model's files; nothing: not part of the model.
using Rename = std::function<std::optional<std::string>(const std::string&)>;

/// Throws RequestError: no adapter there, an option or tensor that is not supported, an A without its B (or, with DoRA,
/// its magnitude), a rank that is not the configured one.
PeftFolder open_peft_folder(const std::filesystem::path& folder, const Rename& rename);

/// Puts the folder's adapter on the layout, for weights that come from it: `config` is adapter.config, or that with
/// what a training may change. Throws RequestError in one line for an adapter for another base: a layer that the layout
/// lacks, or that takes matrices of other shapes.
Lora attach_lora(nn::ModelLayout& layout, const PeftFolder& adapter, const LoraConfig& config,
                 const std::filesystem::path& folder);

/// The weights that the adapter is for: `base`, or, where it began in them (PiSSA, OLoRA), what they have left.
io::SourcePtr adapted_base(io::SourcePtr base, const PeftFolder& adapter);

/// `base` with every adapted weight W read as what the adapter makes of it (fp32 arithmetic, W's type), and replaced
/// ones replaced. A range is merged as it is read: nobody holds a whole weight. Throws RequestError: an adapted layer
/// that base lacks, or whose shape does not fit.
io::SourcePtr merged_source(io::SourcePtr base, const PeftFolder& adapter);

struct MergeRequest {
  std::filesystem::path model;                  ///< a model folder
  std::vector<std::filesystem::path> adapters;  ///< merged in this order; none: the model is saved anew as it is
  std::filesystem::path output;                 ///< created; must not be the model's folder
  std::int64_t shard_bytes = io::ModelWriter::kDefaultShardBytes;
};
struct MergeReport {
  std::int64_t tensors = 0;
  std::int64_t merged = 0;    ///< of them, adapted
  std::int64_t replaced = 0;  ///< of them, trained whole
  std::int64_t bytes = 0;
  std::size_t files = 0;  ///< of weights
};

/// Writes the merged model folder, tensor by tensor in blocks: weights in the base's types and names, config.json and
/// bitsandbytes' settings left out, since what it had packed is written as values, and every other file that is no
/// weight (of a LLaVA's adapter on a bare language model the adapter's config.json), the
/// files in which LISA v0 keeps SAM and its projection, and the vision tower's folder where the config names it
/// relative to its own.
MergeReport merge_folder(const MergeRequest& request);

}  // namespace tessera::adapt
