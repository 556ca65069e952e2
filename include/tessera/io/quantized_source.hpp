#pragma once
/// Weights that bitsandbytes has quantised, in the files that transformers saves of them.
///
/// A matrix `X.weight` of four bits is these tensors (n values in blocks of 64):
///   X.weight                                 U8 [(n + 1) / 2, 1]; another type's bytes stand for U8
///   X.weight.absmax                          F32 [blocks], or U8 [blocks] with double quantisation
///   X.weight.quant_map                       F32 [16]: the codebook
///   X.weight.nested_absmax, .nested_quant_map  F32 [ceil(blocks / 256)], F32 [256]: double quantisation
///   X.weight.quant_state.bitsandbytes__nf4   (or __fp4) U8: a JSON text with quant_type, blocksize, dtype, shape and,
///                                            with double quantisation, nested_blocksize and nested_offset
/// and one of eight bits X.weight I8 [out, in], X.SCB F32 [out], X.weight_format U8 of 0.
/// Source: bitsandbytes 0.50.2, functional.py (QuantState), nn/modules.py (Linear8bitLt).
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "tessera/io/sources.hpp"

namespace tessera::io {

/// The same weights with one F32 tensor per quantised matrix, under its name and with its shape, in place of its parts
/// (TensorSource::packed has them); `files` itself when nothing is quantised. Values that are read are the ones that
/// the bits stand for, in fp32. Throws RequestError naming file and tensor: a part that is missing or mis-shaped,
/// blocks of another length, another codebook, int8 in a layout of columns. `threshold`: what PackedTensor gets.
SourcePtr unpack_quantized(SourcePtr files, std::optional<double> threshold = {});

/// The llm_int8_threshold of the quantization_config in a folder's config.json; nothing without one. Throws
/// RequestError when it is no number or below 0.
std::optional<double> outlier_threshold(const std::filesystem::path& folder);

/// Takes bitsandbytes' quantization_config out of a model's config.json, for a folder whose weights are values.
void drop_quantization(nlohmann::json& config);

/// Bytes [begin, begin + count) of a matrix' codes.
void read_codes(const PackedTensor& packed, std::int64_t begin, std::int64_t count, std::uint8_t* out);

}  // namespace tessera::io
