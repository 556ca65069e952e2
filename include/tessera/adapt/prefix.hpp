#pragma once
/// Prefix tuning of a layout's language model: P learned keys and values before every attention layer's own, which are
/// all that trains. With a projection they are the output of a small network, of which PEFT saves the product alone.
/// Shapes: P virtual tokens, L attention layers, H key-value heads, d head size; width H*d.
/// Source: arXiv:2101.00190; huggingface/peft tuners/prefix_tuning, peft_model.py (get_prompt), utils/other.py.
#include <cstdint>
#include <filesystem>
#include <string>

#include "tessera/core/json.hpp"
#include "tessera/io/sources.hpp"
#include "tessera/nn/param.hpp"

namespace at {
class Tensor;
}

namespace tessera::adapt {

/// Names are PEFT's.
struct PrefixConfig {
  std::int64_t num_virtual_tokens = 20;
  bool prefix_projection = false;
  std::int64_t encoder_hidden_size = 0;  ///< of the projection; 0: the width
};

struct Prefix {
  PrefixConfig config;
  nn::UnitId unit = -1;  ///< the fused unit "prefix"
  /// [P, 2*L*H*d]: each layer's keys, then its values; with a projection [P, H*d].
  nn::Param embedding;
  /// tanh(embedding inner^T + b) outer^T + b; null without a projection. [encoder_hidden_size, H*d], [2*L*H*d,
  /// encoder_hidden_size]
  nn::Param inner, inner_bias, outer, outer_bias;
  std::int64_t layers = 0, kv_heads = 0, head_dim = 0;
  std::int64_t width() const noexcept { return kv_heads * head_dim; }
};

/// Appends the unit "prefix" to the layout, puts a prefix on every attention layer and marks their units adapted. Its
/// parameters have PEFT's names in memory ("prompt_encoder.default.embedding.weight", …) and train. Call it after the
/// model is built. Throws RequestError: no attention layer, fewer than one token, a prefix that is there already.
Prefix attach_prefix(nn::ModelLayout& layout, const PrefixConfig& config);

/// What PEFT saves as `prompt_embeddings`, [P, 2*L*H*d], without a graph. The weights are bound.
at::Tensor prompt_embeddings(const Prefix& prefix);

/// adapter_config.json as PEFT reads it.
std::string prefix_config_json(const Prefix& prefix, const std::string& base_model);

/// A folder's peft_type: "LORA", "PREFIX_TUNING", …. Throws RequestError where there is no adapter.
std::string peft_type(const std::filesystem::path& folder);

struct PrefixFolder {
  PrefixConfig config;    ///< without a projection
  io::SourcePtr weights;  ///< "prompt_encoder.default.embedding.weight"
};
/// PEFT's folder of a prefix. Throws RequestError: no prefix there, a size that is not what its configuration says.
PrefixFolder open_prefix_folder(const std::filesystem::path& folder);
inline constexpr const char* kPromptEmbeddings = "prompt_embeddings";  ///< the tensor's name in PEFT's file

/// Throws RequestError when the folder's tensor is not what this layout's prefix takes: an adapter for another base.
void check_fits(const PrefixFolder& folder, const Prefix& prefix, const std::filesystem::path& path);

}  // namespace tessera::adapt
