#pragma once
/// AdamW with its two moments as 8-bit codes: a code a value, and an fp32 scale, the largest magnitude, for each block
/// of kMomentBlock values of a tensor. The first moment has the signed dynamic code, the second the unsigned one.
///
/// Blocks count from the first element of a tensor. Groups with such moments are aligned to them, so that no cut
/// divides one and the result has the same bits for any number of ranks. Small tensors and embedding tables keep fp32
/// moments. Shapes: n values of one tensor, from the start of a block; codes u8 [n], scales fp32 [ceil(n /
/// kMomentBlock)]. Source: Dettmers et al., arXiv:2110.02861; bitsandbytes functional.py (create_dynamic_map),
/// optim/optimizer.py, backends/default (quantize_blockwise: the nearest code; its native CPU kernel rounds to a grid
/// of 65,536 first and loses what is smaller); transformers trainer.py for the embeddings.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

namespace tessera::shard {

inline constexpr std::int64_t kMomentBlock = 256;
inline constexpr std::int64_t kSmallest8bit = 4096;  ///< elements of the smallest tensor with coded moments

/// Whether a parameter's moments stay fp32 beside coded ones.
bool keeps_exact_moments(std::string_view name, std::int64_t elements);

enum class DynamicCode : std::uint8_t { with_sign, without_sign };
/// The 256 values of a code in rising order, within [-1, 1]; fp32 [256] on the CPU.
at::Tensor values_of(DynamicCode code);

struct CodedMoment {
  at::Tensor codes, scales;
};

/// Each value as the nearest of its block's, the lower of two as near; of a block of zeros all codes are 0.
void encode(const at::Tensor& values, DynamicCode code, const CodedMoment& out);
/// fp32 [n].
at::Tensor decode(const CodedMoment& moment, DynamicCode code);
/// The same by LibTorch's operations, on any device; those above take them beside a GPU. A value as near to two codes
/// as fp32 can tell may get the other one.
void encode_by_operations(const at::Tensor& values, DynamicCode code, const CodedMoment& out);
at::Tensor decode_by_operations(const CodedMoment& moment, DynamicCode code);

struct AdamWStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  std::int64_t step = 1;  ///< from 1
  double grad_scale = 1;
};

/// One update of `master` by `grad`, fp32 [n]; what was decoded is updated, used, and encoded again.
void adamw_coded(const AdamWStep& step, const at::Tensor& master, const at::Tensor& grad, const CodedMoment& first,
                 const CodedMoment& second);

}  // namespace tessera::shard
