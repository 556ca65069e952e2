#pragma once
/// Small safetensors files as LibTorch tensors: the recorded inputs and outputs of `tessera forward`, goldens of tests.
/// Models do not come this way: their bytes go straight to the slices that hold them. Link tessera_io_tensors.
#include <filesystem>
#include <map>
#include <string>

#include "tessera/io/safetensors.hpp"

namespace at {
class Tensor;
}

namespace tessera::io {

using TensorMap = std::map<std::string, at::Tensor>;

/// A whole tensor on the CPU, in its own type and shape.
at::Tensor read_tensor(const TensorSource& source, const TensorInfo& tensor);
/// By name. Throws RequestError when there is none.
at::Tensor read_tensor(const TensorSource& source, const std::string& name);
/// Every tensor of a safetensors file.
TensorMap read_tensors(const std::filesystem::path& path);
/// Tensors of any device and strides; they are written contiguous. Throws RunError for a type the format does not have.
void write_tensors(const std::filesystem::path& path, const TensorMap& tensors, const Metadata& metadata = {});

}  // namespace tessera::io
