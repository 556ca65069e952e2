#pragma once
// The kinds of models behind ForwardModel::open, and what they share.
#include <nlohmann/json_fwd.hpp>

#include "tessera/models/forward.hpp"

namespace tessera::models {

std::unique_ptr<ForwardModel> open_language(const ForwardRequest& request, const nlohmann::json& config);
std::unique_ptr<ForwardModel> open_clip(const ForwardRequest& request, const nlohmann::json& config);
std::unique_ptr<ForwardModel> open_fastvit(const ForwardRequest& request, const nlohmann::json& config);
std::unique_ptr<ForwardModel> open_sam(const ForwardRequest& request, const nlohmann::json& config);
std::unique_ptr<ForwardModel> open_llava(const ForwardRequest& request);
std::unique_ptr<ForwardModel> open_lisa(const ForwardRequest& request);

/// Inputs by name; what is left when all were taken is an error.
class Inputs {
 public:
  explicit Inputs(const TensorMap& given) : left_(given) {}
  bool has(const std::string& name) const { return left_.contains(name); }
  /// dim < 0: any. Throws RequestError when it is missing or has other than `dim` dimensions.
  at::Tensor take(const std::string& name, std::int64_t dim);
  /// Undefined when it is not there.
  at::Tensor take_optional(const std::string& name, std::int64_t dim);
  /// Integers of any integral type.
  std::vector<std::int64_t> take_integers(const std::string& name);
  /// All whose name begins with `prefix`, without it.
  TensorMap take_prefixed(const std::string& prefix);
  /// Throws RequestError naming what was not taken.
  void finish() const;

 private:
  TensorMap left_;
};

/// Writes list[i] as "<name>.i".
void put_list(TensorMap& outputs, const std::string& name, const std::vector<at::Tensor>& list);

}  // namespace tessera::models
