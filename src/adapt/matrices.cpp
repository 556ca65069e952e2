#include "matrices.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <array>
#include <utility>

namespace tessera::adapt {
namespace {

struct Tail {
  std::string_view text;
  const io::TensorInfo* LayerMatrices::*member;
};
// AdaLoRA's are parameters of their layer, without a module of their own.
constexpr std::string_view kEmbedding = ".lora_embedding_";
constexpr std::array<Tail, 9> kTails{{{".lora_A.default.weight", &LayerMatrices::a},
                                      {".lora_B.default.weight", &LayerMatrices::b},
                                      {".lora_B.default.bias", &LayerMatrices::bias},
                                      {".lora_A.default", &LayerMatrices::a},
                                      {".lora_B.default", &LayerMatrices::b},
                                      {".lora_E.default", &LayerMatrices::e},
                                      {".lora_embedding_A.default", &LayerMatrices::a},
                                      {".lora_embedding_B.default", &LayerMatrices::b},
                                      {".lora_magnitude_vector.default.weight", &LayerMatrices::magnitude}}};

}  // namespace

std::optional<MatrixName> matrix_name(const std::string& param) {
  for (const Tail& tail : kTails) {
    if (!param.ends_with(tail.text)) continue;
    return MatrixName{param.substr(0, param.size() - tail.text.size()), std::string(tail.text)};
  }
  return std::nullopt;
}

LayerMatrices matrices_of(const io::TensorSource& source, const std::string& layer) {
  LayerMatrices found;
  for (const Tail& tail : kTails) {
    const io::TensorInfo* tensor = source.find(layer + std::string(tail.text));
    if (tensor == nullptr) continue;
    found.*(tail.member) = tensor;
    found.embedding = found.embedding || tail.text.starts_with(kEmbedding);
  }
  return found;
}

std::vector<std::int64_t> LayerMatrices::weight_shape() const {
  std::vector<std::int64_t> shape = a->shape;
  shape.at(0) = b->shape.at(0);
  if (embedding) std::swap(shape.at(0), shape.at(1));
  return shape;
}

at::Tensor read_matrix(const io::TensorSource& source, const io::TensorInfo& tensor) {
  at::Tensor out = at::empty(tensor.shape, at::kFloat);
  source.read_f32(tensor, 0, tensor.numel(), out.data_ptr<float>());
  return out;
}

}  // namespace tessera::adapt
