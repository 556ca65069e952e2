#pragma once
/// Weights in four or eight bits, as bitsandbytes stores them: the numbers alone, on host memory. Packed bytes, scales
/// and the values that come back are those of bitsandbytes 0.50 on a CPU, bit by bit.
///
/// nf4, fp4: blocks of 64 values of the flattened tensor, whatever its rows. A block keeps its largest magnitude
/// ("absmax") in fp32, each value the nearest of 16 codes times it. Two values share a byte, the even one in the high
/// nibble; an odd last value shares its byte with a zero.
/// Double quantisation: the absmax of a tensor, less their mean, in bytes of an 8-bit code, each 256 of them with an
/// fp32 absmax of their own: absmax = code[byte] * absmax2 + mean.
/// int8: per row of the matrix its absmax in fp32, each value round(127 x / absmax); the values are rounded to fp16
/// first.
///
/// Source: Dettmers et al., QLoRA, arXiv:2305.14314, and LLM.int8(), arXiv:2208.07339; bitsandbytes 0.50.2 for tables,
/// ties and the treatment of blocks of zeros. Its CUDA kernels store other bytes for blocks of zeros, for the two zeros
/// of fp4 and for some scales next to the middle between two codes; what its files hold is read the same.
/// Units: elements. Not collective, thread-safe, nothing allocated.
#include <cstdint>
#include <span>
#include <string_view>

namespace tessera {

enum class QuantKind : std::uint8_t { none, nf4, fp4, int8 };
/// "nf4", "fp4", "int8"; "none". Throws RequestError for another word.
QuantKind quant_kind(std::string_view name);
std::string_view name_of(QuantKind kind) noexcept;

/// The references' default of the magnitude from which on activations that meet int8 weights stay as they are.
inline constexpr double kOutlierThreshold = 6.0;

inline constexpr std::int64_t kQuantBlock = 64;    ///< values that share an absmax
inline constexpr std::int64_t kNestedBlock = 256;  ///< absmax values that share one of their own
constexpr std::int64_t quant_blocks(std::int64_t values) noexcept {
  return (values + kQuantBlock - 1) / kQuantBlock;
}
constexpr std::int64_t nested_blocks(std::int64_t blocks) noexcept {
  return (blocks + kNestedBlock - 1) / kNestedBlock;
}

/// The 16 values of nf4 or fp4, by code.
std::span<const float, 16> codebook(QuantKind kind) noexcept;
/// The 256 values of the 8-bit code of double quantisation, ascending.
std::span<const float, 256> dynamic_code() noexcept;

/// nf4 or fp4: `count` values to (count + 1) / 2 bytes and quant_blocks(count) scales. False when a value is not
/// finite; the output is then of no use.
bool quantize_blocks(QuantKind kind, const float* values, std::int64_t count, std::uint8_t* packed, float* absmax);
/// The inverse; `packed` begins at a block.
void dequantize_blocks(QuantKind kind, const std::uint8_t* packed, const float* absmax, std::int64_t count, float* out);

/// Scales less their mean to one byte each, and nested_blocks(count) scales of their own.
void quantize_scales(const float* centred, std::int64_t count, std::uint8_t* codes, float* absmax2);
/// Scales [begin, begin + count) of a tensor; `codes` points at the first of them, `absmax2` at those of the tensor.
void dequantize_scales(const std::uint8_t* codes, const float* absmax2, float mean, std::int64_t begin,
                       std::int64_t count, float* out);

/// int8: the scale of a row; not finite when a value is not (or is beyond fp16).
float row_scale(const float* values, std::int64_t count) noexcept;
void quantize_row(const float* values, std::int64_t count, float scale, std::int8_t* out) noexcept;
void dequantize_row(const std::int8_t* values, std::int64_t count, float scale, float* out) noexcept;

}  // namespace tessera
