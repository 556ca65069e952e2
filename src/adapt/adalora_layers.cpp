// What AdaLoRA's layers have together: their regulariser, and what of them is saved.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "matrices.hpp"
#include "tessera/adapt/lora.hpp"

namespace tessera::adapt {
namespace {

/// The triplets a layer has left, and the dimension of the parameter that counts them. Null: all of them are saved.
struct Cut {
  const std::vector<bool>* kept = nullptr;
  std::int64_t dim = 0;
  std::vector<std::int64_t> indices() const {
    std::vector<std::int64_t> out;
    for (std::size_t i = 0; i < kept->size(); ++i) {
      if ((*kept)[i]) out.push_back(static_cast<std::int64_t>(i));
    }
    return out;
  }
};

Cut cut_of(const Lora& lora, const nn::ParamState& param) {
  if (!lora.config.adalora || param.unit != lora.unit) return {};
  const auto name = matrix_name(param.name);
  if (!name) return {};
  const auto& pattern = lora.config.adalora->rank_pattern;
  const auto found = pattern.find(name->layer);
  if (found == pattern.end()) return {};
  return {&found->second, name->tail.starts_with(".lora_B") ? 1 : 0};
}

}  // namespace

at::Tensor orthogonality(const Lora& lora) {
  at::Tensor sum;
  for (const LoraLayer& layer : lora.layers) {
    for (const at::Tensor& rows : {layer.a->value(), layer.b->value().t()}) {
      const at::Tensor own = orthogonality(rows);
      sum = sum.defined() ? sum + own : own;
    }
  }
  const auto matrices = static_cast<double>(2 * (lora.empty.size() + lora.layers.size()));
  return sum.defined() ? sum / matrices : at::zeros({});
}

std::vector<std::int64_t> saved_shape(const Lora& lora, const nn::ParamState& param) {
  std::vector<std::int64_t> shape = param.shape;
  if (const Cut cut = cut_of(lora, param); cut.kept != nullptr)
    shape.at(static_cast<std::size_t>(cut.dim)) = static_cast<std::int64_t>(cut.indices().size());
  return shape;
}

at::Tensor saved_part(const Lora& lora, const nn::ParamState& param, const at::Tensor& value) {
  const Cut cut = cut_of(lora, param);
  if (cut.kept == nullptr) return value;
  const at::Tensor indices = at::tensor(cut.indices(), at::TensorOptions().dtype(at::kLong)).to(value.device());
  return value.index_select(cut.dim, indices);
}

}  // namespace tessera::adapt
