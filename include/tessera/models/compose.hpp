#pragma once
/// A new LLaVA from a language model and a CLIP, in the folder that transformers' Llava classes load
/// (LlavaForConditionalGeneration, LlavaProcessor): weights of both under the names of llava-hf's files, a projector,
/// tokens for image and padding, processor files. Tensors go from file to file in pieces; no model is in memory.
/// Source: transformers models/llava (configuration, convert_llava_weights_to_hf, processing); LLaVA train.py for the
/// rows of new tokens and the projector's first values.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tessera/io/model_writer.hpp"
#include "tessera/models/vocabulary.hpp"

namespace tessera::models {

/// How a projector that no file holds is drawn.
enum class ProjectorInit : std::uint8_t {
  uniform,  ///< weights and biases U(±1/sqrt(inputs)), PyTorch's for a linear layer, which is LLaVA's
  normal,   ///< weights N(0, initializer_range), biases 0, transformers' for a Llava made from its config
};
/// Throws RequestError for another name.
ProjectorInit projector_init_from_name(std::string_view name);

struct ComposeRequest {
  std::filesystem::path language_model;  ///< folder: LLaMA, Mistral or Qwen2, with its tokenizer
  std::filesystem::path vision_tower;    ///< folder: CLIP, whole or its vision model alone
  std::filesystem::path output;          ///< made here; must not be there, or be empty
  std::filesystem::path projector;       ///< mm_projector.bin or a LLaVA to take it from; empty: drawn
  ProjectorInit projector_init = ProjectorInit::normal;
  std::uint64_t seed = 42;     ///< of what is drawn
  std::string dtype = "auto";  ///< fp32, bf16, fp16; auto: as the language model's embedding is stored
  std::int64_t shard_bytes = io::ModelWriter::kDefaultShardBytes;
  std::int64_t select_layer = -2;        ///< the tower's hidden state that is projected
  std::string select_feature = "patch";  ///< without the class token, or `cls_patch`
  std::string image_token = "<image>";
  std::string pad_token = "<pad>";  ///< added only where the tokenizer declares none
  NewRows new_rows = NewRows::mean;
  /// A vocabulary that has to grow becomes a multiple of this. One with room for the new tokens keeps its size.
  std::int64_t pad_to_multiple_of = 64;
  bool dry_run = false;  ///< everything is checked, nothing is written
};

struct ComposeReport {
  std::int64_t tensors = 0;
  std::int64_t elements = 0;
  std::int64_t bytes = 0;  ///< of the tensors as written
  std::size_t files = 0;   ///< that hold them
  std::string dtype;       ///< torch's name
  std::int64_t image_token_id = 0, pad_token_id = 0;
  std::int64_t old_rows = 0, rows = 0;  ///< of the vocabulary
  std::vector<std::string> left_out;    ///< tensors of the sources that LLaVA has no place for
};

/// The output appears under its name when it is whole, or not at all. Throws RequestError, before anything is written,
/// for what does not fit: all missing and mis-shaped tensors at once, unknown models, files, dtypes, tokens.
ComposeReport compose_llava(const ComposeRequest& request);

}  // namespace tessera::models
