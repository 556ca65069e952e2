#pragma once
/// Vocabularies that grow: rows for added tokens, behind those that the files hold.
///
/// Shapes: V rows in the files, W >= V wanted, D width.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/io/sources.hpp"
#include "tessera/nn/param.hpp"

namespace tessera::models {

/// What the rows of added tokens are.
enum class NewRows : std::uint8_t {
  mean,    ///< each the mean of the V old rows of the same tensor (LLaVA, smart_tokenizer_and_embedding_resize)
  normal,  ///< N(0, std), drawn as a weight that no file holds (LISA, transformers' resize_token_embeddings)
};
/// "mean" or "normal". Throws RequestError for another name.
NewRows new_rows_from_name(std::string_view name);

struct VocabularyGrowth {
  std::vector<std::string> tensors;  ///< [V,D] each: the input embedding and, where it is not tied, the head
  std::int64_t rows = 0;             ///< W
  NewRows fill = NewRows::mean;
  double std = 0.02;       ///< of NewRows::normal
  std::uint64_t seed = 0;  ///< of NewRows::normal
};

/// `source` with its vocabulary grown to W rows: the named tensors become F32 [W,D], the others stay. A named tensor
/// that is not there, is no matrix or has W rows or more stays too. Old rows keep their values exactly. Means are
/// summed in fp64 over one pass through the old rows, when a new row is first read; any number of threads may read.
/// Under ZeRO-3 a rank whose slice holds new rows reads the old ones for their mean, beside its slice.
io::SourcePtr grow_vocabulary(io::SourcePtr source, const VocabularyGrowth& growth);

/// To the vocabulary of a language model's layout: its embedding and, where it has one of its own, its head; what is
/// normal is drawn with the model's own standard deviation.
VocabularyGrowth growth_to(const nn::ModelLayout& layout, NewRows fill, std::uint64_t seed);

}  // namespace tessera::models
