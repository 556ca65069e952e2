#pragma once
/// Rotary position embeddings, LLaMA's in transformers' layout (halves of a head form the pairs), with the scalings
/// that model files ask for. Source: RoFormer, arXiv:2104.09864; the scalings as transformers' modeling_rope_utils.py
/// computes them.
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tessera::nn {

struct RopeConfig {
  std::int64_t dim = 0;  ///< of a head
  double theta = 10000.0;
  enum class Scaling : std::uint8_t { none, linear, dynamic, llama3 } scaling = Scaling::none;
  double factor = 1.0;
  double low_freq_factor = 1.0;          ///< llama3
  double high_freq_factor = 4.0;         ///< llama3
  double original_max_positions = 8192;  ///< llama3
  double max_positions = 2048;           ///< dynamic: sequences up to here are not scaled
};

struct RopeTables {
  at::Tensor cos;  ///< [T,dim], or [B,1,T,dim] where rows have positions of their own
  at::Tensor sin;
};

/// Inverse frequencies, fp32 [dim/2] on the CPU. length: positions of the sequence, which `dynamic` depends on.
/// (transformers keeps the frequencies of the longest sequence it has seen so far; here they depend on `length` alone.)
at::Tensor rope_frequencies(const RopeConfig& config, std::int64_t length);

/// Computed in fp32 for positions 0…T-1, then cast to `options`.
RopeTables rope_tables(const RopeConfig& config, std::int64_t positions, const at::TensorOptions& options);
/// The same for given positions, i64 [T] or [B,T]; the sequence's length is the largest of them and one.
RopeTables rope_tables_at(const RopeConfig& config, const at::Tensor& positions, const at::TensorOptions& options);

}  // namespace tessera::nn
