#pragma once
/// int8_input: what a linear layer whose weight is in eight bits sees of its input, LLM.int8()'s decomposition: the
/// columns that hold an outlier stay as they are, the others are rounded to eight bits row by row. Times the expanded
/// weight this is LLM.int8()'s product, whose two parts, the int8 one and that of the outliers, add up.
///
/// Shapes: D features; everything before them are rows. For each call:
///   1. h = x rounded to fp16, as bitsandbytes casts what it quantises (values beyond fp16 are outliers);
///   2. with threshold > 0, a column is an outlier's where |h| >= threshold in any row of the call, padding included
///      (a caller that computes some rows alone decides over those);
///   3. absmax of a row over all its h with |h| < threshold, those in outliers' columns included;
///   4. outliers' columns: x itself; the others: round(127 h / absmax) * absmax / 127, ties to even; 0 where absmax is
///   0.
/// With threshold 0 no column is an outlier's and every value counts in absmax. Backward is straight through: the
/// gradient of the result is that of x, so x's gradient is the output's times the expanded weight.
///
/// Source: Dettmers et al., LLM.int8(), arXiv:2208.07339; bitsandbytes 0.50.2 (Linear8bitLt, has_fp16_weights false),
/// whose CUDA path this is in training and evaluation alike. Its CPU path computes the same in evaluation, but for a
/// factor of 1.00002 on the int8 part (a constant that should be 1 / 127^2), and leaves activations as they are while
/// training. The int8 part is exact there and is scaled once; here it is a product in x's type.
#include <ATen/core/Tensor.h>

namespace tessera::nn {

/// x [..., D] to the same shape and type. threshold >= 0.
at::Tensor int8_input(const at::Tensor& x, double threshold);

}  // namespace tessera::nn
