#include "tessera/models/projector.hpp"

#include <charconv>

#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

/// N of "mlpNx_gelu"; 0 when the text is not of that form.
int mlp_depth(const std::string& type) {
  constexpr std::string_view kHead = "mlp";
  constexpr std::string_view kTail = "x_gelu";
  if (!type.starts_with(kHead) || !type.ends_with(kTail) || type.size() <= kHead.size() + kTail.size()) return 0;
  const char* begin = type.data() + kHead.size();
  const char* end = type.data() + type.size() - kTail.size();
  int depth = 0;
  const auto [stop, problem] = std::from_chars(begin, end, depth);
  return problem == std::errc() && stop == end && depth > 0 && depth < 100 ? depth : 0;
}

}  // namespace

Projector::Projector(nn::ModelLayout& layout, const std::string& prefix, const std::string& type, std::int64_t in,
                     std::int64_t out, nn::Activation activation, bool bias)
    : activation_(activation) {
  if (type == "identity") {
    if (in != out) throw RequestError("mm_projector_type identity needs equal widths, not {} and {}", in, out);
    return;
  }
  unit_ = layout.add_unit(prefix);
  const nn::Scope scope(layout, unit_, prefix);
  if (type == "linear") {
    layers_.emplace_back(scope, "", in, out, bias);
    return;
  }
  const int depth = mlp_depth(type);
  if (depth == 0)
    throw RequestError("mm_projector_type '{}' is not known; known are linear, mlpNx_gelu, identity", type);
  for (int i = 0; i < depth; ++i) layers_.emplace_back(scope, std::to_string(2 * i), i == 0 ? in : out, out, bias);
}

at::Tensor Projector::forward(const at::Tensor& features, nn::UnitRunner& runner, const nn::ForwardContext& ctx) const {
  if (layers_.empty()) return features;
  return runner
      .run(unit_, {features},
           [this, ctx](const nn::Tensors& in) {
             at::Tensor x = in.at(0);
             for (std::size_t i = 0; i < layers_.size(); ++i) {
               if (i > 0) x = nn::activate(activation_, x);
               x = layers_[i](x, ctx);
             }
             return nn::Tensors{x};
           })
      .at(0);
}

}  // namespace tessera::models
