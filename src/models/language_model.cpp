#include "tessera/models/language_model.hpp"

#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/full.h>
#include <ATen/ops/nonzero.h>

#include "tessera/core/error.hpp"

namespace tessera::models {

void require_ids(const at::Tensor& ids, std::int64_t vocab_size) {
  if (ids.numel() == 0) return;
  const auto lowest = ids.min().item<std::int64_t>();
  const auto highest = ids.max().item<std::int64_t>();
  if (lowest < 0 || highest >= vocab_size) {
    throw RequestError("input_ids: id {} is outside the vocabulary of {}", lowest < 0 ? lowest : highest, vocab_size);
  }
}

at::Tensor cross_entropy_sum(const at::Tensor& logits, const at::Tensor& targets, double smoothing) {
  return at::cross_entropy_loss(logits.to(at::kFloat), targets, {}, at::Reduction::Sum, -100, smoothing);
}

NextTokenTargets next_token_targets(const at::Tensor& labels) {
  const std::int64_t rows = labels.size(0);
  const std::int64_t length = labels.size(1);
  // Position p of a row is scored by label p+1; the last position has none.
  const at::Tensor next = at::full({rows, length}, -100, labels.options());
  if (length > 1) next.narrow(1, 0, length - 1).copy_(labels.narrow(1, 1, length - 1));
  const at::Tensor flat = next.reshape({rows * length});
  const at::Tensor positions = at::nonzero(flat.ne(-100)).squeeze(1);
  return {positions, flat.index_select(0, positions)};
}

}  // namespace tessera::models
