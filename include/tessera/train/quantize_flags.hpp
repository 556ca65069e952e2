#pragma once
/// QuantizeFlags: which weights lie in four or eight bits, in this program's words and in those of the references, and
/// what the words mean for a given model.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tessera/core/options.hpp"
#include "tessera/core/quantize.hpp"
#include "tessera/io/tensor_source.hpp"
#include "tessera/nn/param.hpp"
#include "tessera/shard/config.hpp"

namespace tessera::train {

struct QuantizeFlags {
  std::string quantize = "none";
  std::optional<bool> double_quant;
  bool load_in_4bit = false, load_in_8bit = false;  ///< LISA's
  std::int64_t bits = 16;                           ///< LLaVA's
  std::string quant_type = "nf4";                   ///< LLaVA's, of --bits 4
  std::optional<double> threshold;                  ///< of int8 (nn/int8_input.hpp)
  std::vector<std::string> skip;                    ///< modules that are not converted

  /// What was asked for. Throws RequestError naming the flags that contradict each other.
  QuantKind kind() const;
  /// Of the kind that was asked for; nothing: as the files have it, else the references' default for their own flags
  /// and no double quantisation for --quantize.
  bool double_quantised() const;
};

/// --quantize, --double_quant and, as transformers spells them, --llm_int8_threshold and --llm_int8_skip_modules.
void bind(Options& options, QuantizeFlags& flags, const std::string& group);
/// The references' names for the same.
void bind_references(Options& options, QuantizeFlags& flags, const std::string& group);

/// The matrices of `layout` that are kept quantised; what trains is settled. Those are the linear layers of the
/// language model (of all layers, where the model is a tower alone) whose weights do not train, but for the output
/// layer and modules that are to be skipped, which are named as transformers does: by a component of a layer's name, by
/// several that follow one another, or in full. Where `files` hold quantised weights, it is what they hold, with their
/// threshold where the flags have none, and another kind is a RequestError; null: no files. Throws RequestError when
/// nothing is left to quantise because the language model itself trains, for a module to skip that no layer lies in,
/// and for flags of int8 without it.
shard::Quantization quantization(const QuantizeFlags& flags, const nn::ModelLayout& layout,
                                 const io::TensorSource* files);

/// For a run that would differentiate everything: takes the mark off the matrices that quantization() may choose, since
/// quantised ones have no gradient. Without effect where nothing is to be quantised.
void freeze_quantizable(const QuantizeFlags& flags, const nn::ModelLayout& layout, const io::TensorSource& files);

/// "224 matrices in nf4 with double quantisation", "… in int8, outliers from 6", for people.
std::string describe(const shard::Quantization& quantization);

}  // namespace tessera::train
