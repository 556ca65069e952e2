#pragma once
// How LISA's text becomes the sequence the language model sees: the placeholder -200 of each row is replaced by P image
// features, labels and mask grow along, and the position before each [SEG] is found.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "tessera/models/lisa.hpp"

namespace tessera::models {

constexpr std::int64_t kImageToken = -200;
constexpr std::int64_t kIgnoreLabel = -100;

/// All of it lies in host memory.
struct LisaSequence {
  std::vector<std::int64_t> placeholder;  ///< [C] column of the -200
  at::Tensor ids;                         ///< [C,L], 0 in place of the -200
  at::Tensor labels;                      ///< [C,T]
  at::Tensor mask;                        ///< bool [C,T]
  at::Tensor image_of_row;                ///< i64 [C]
  at::Tensor seg_positions;               ///< i64 [n,2]: row, position in the expanded sequence
  std::vector<std::int64_t> seg_counts;   ///< [I]
  std::vector<std::uint64_t> seg_keys;    ///< [n], by conversation and place in it; none where the batch names none
};

/// The batch with its text in host memory, and v0's rows in v1's form: the P patch ids of a row that has no -200 become
/// one. All rows must be of one form. Throws RequestError where a row has another number of patch ids than P, or they
/// do not stand together.
LisaBatch with_placeholders(const LisaBatch& given, const LisaConfig& config);

/// Throws RequestError when the batch contradicts itself.
LisaSequence plan_sequence(const LisaBatch& batch, const LisaConfig& config, bool need_labels);

/// embeddings [C,L,D], features [C,P,D] to [C,L+P-1,D].
at::Tensor splice(const at::Tensor& embeddings, const at::Tensor& features,
                  const std::vector<std::int64_t>& placeholder);

}  // namespace tessera::models
