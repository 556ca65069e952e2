#pragma once
#include "tessera/core/error.hpp"
#include "tessera/io/tensor_source.hpp"

namespace tessera::testing_support {

/// A folder without a tensor: every weight is drawn.
class NoTensors final : public io::TensorSource {
 public:
  const std::vector<io::TensorInfo>& tensors() const override { return none_; }
  void read(const io::TensorInfo& tensor, std::int64_t, std::int64_t, void*) const override {
    throw RunError("there is no tensor '{}'", tensor.name);
  }
  std::string where(const io::TensorInfo&) const override { return "nowhere"; }

 private:
  std::vector<io::TensorInfo> none_;
};

}  // namespace tessera::testing_support
