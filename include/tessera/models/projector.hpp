#pragma once
/// The projector from a vision tower's features to the language model's embeddings: `linear`, `mlpNx_gelu`, `identity`.
/// Names as LLaVA's: `mm_projector.weight` (linear), `mm_projector.0`, `.2`, … (mlp).
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "tessera/nn/functional.hpp"
#include "tessera/nn/layers.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::models {

class Projector {
 public:
  /// type: mm_projector_type of config.json. Throws RequestError for an unknown one. activation and bias are what
  /// transformers' LLaVA may choose; the original's are the defaults.
  Projector(nn::ModelLayout& layout, const std::string& prefix, const std::string& type, std::int64_t in,
            std::int64_t out, nn::Activation activation = nn::Activation::gelu, bool bias = true);
  /// [B,P,in] to [B,P,out]. `identity` has no unit and returns its input.
  at::Tensor forward(const at::Tensor& features, nn::UnitRunner& runner, const nn::ForwardContext& ctx) const;

 private:
  nn::UnitId unit_ = -1;
  nn::Activation activation_;
  std::vector<nn::Linear> layers_;
};

}  // namespace tessera::models
