#include "tessera/models/local_weights.hpp"

#include <fmt/ranges.h>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "tessera/core/error.hpp"

namespace tessera::models {

void load_local(nn::ModelLayout& layout, const io::TensorSource& source) {
  std::vector<std::string> wrong;
  for (const nn::Param& param : layout.params()) {
    const io::TensorInfo* info = source.find(param->name);
    if (info == nullptr) {
      wrong.push_back(fmt::format("'{}' is missing", param->name));
    } else if (info->shape != param->shape) {
      wrong.push_back(fmt::format("'{}' is [{}] in {}, expected [{}]", param->name, fmt::join(info->shape, ","),
                                  source.where(*info), fmt::join(param->shape, ",")));
    }
  }
  if (!wrong.empty()) throw RequestError("weights do not fit the model: {}", fmt::join(wrong, "; "));
  for (const nn::Param& param : layout.params()) {
    at::Tensor value = at::empty(param->shape, at::kFloat);
    source.read_f32(*source.find(param->name), 0, param->numel(), value.data_ptr<float>());
    value.requires_grad_(param->trainable && !param->buffer);
    param->bind(std::move(value));
  }
}

}  // namespace tessera::models
