#pragma once
// The matrices of adapted layers by their names: which one a parameter is, and where those of a layer lie in a source.
#include <optional>
#include <string>
#include <vector>

#include "tessera/io/tensor_source.hpp"

namespace at {
class Tensor;
}

namespace tessera::adapt {

struct MatrixName {
  std::string layer;  ///< full name of the adapted layer
  std::string tail;   ///< ".lora_A.default.weight" and its kin
};
/// Nothing where the parameter is no adapter's.
std::optional<MatrixName> matrix_name(const std::string& param);

/// Null: the source has none.
struct LayerMatrices {
  const io::TensorInfo* a = nullptr;
  const io::TensorInfo* b = nullptr;
  const io::TensorInfo* e = nullptr;          ///< AdaLoRA
  const io::TensorInfo* magnitude = nullptr;  ///< DoRA
  const io::TensorInfo* bias = nullptr;       ///< lora_bias
  bool embedding = false;                     ///< A and B of an embedding
  /// Of the weight that they are for.
  std::vector<std::int64_t> weight_shape() const;
};
LayerMatrices matrices_of(const io::TensorSource& source, const std::string& layer);

/// The whole tensor, fp32.
at::Tensor read_matrix(const io::TensorSource& source, const io::TensorInfo& tensor);

}  // namespace tessera::adapt
