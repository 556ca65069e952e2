#include "tessera/io/tensor_file.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <array>

#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

constexpr std::array<std::pair<Elem, at::ScalarType>, 10> kTypes{{{Elem::f32, at::kFloat},
                                                                  {Elem::f16, at::kHalf},
                                                                  {Elem::bf16, at::kBFloat16},
                                                                  {Elem::f64, at::kDouble},
                                                                  {Elem::i64, at::kLong},
                                                                  {Elem::i32, at::kInt},
                                                                  {Elem::i16, at::kShort},
                                                                  {Elem::i8, at::kChar},
                                                                  {Elem::u8, at::kByte},
                                                                  {Elem::boolean, at::kBool}}};

at::ScalarType scalar_type_of(Elem type) {
  for (const auto& [elem, scalar] : kTypes) {
    if (elem == type) return scalar;
  }
  throw RunError("no LibTorch type for {}", name_of(type));
}

Elem elem_of(const at::Tensor& tensor, const std::string& name) {
  for (const auto& [elem, scalar] : kTypes) {
    if (scalar == tensor.scalar_type()) return elem;
  }
  throw RunError("tensor '{}': safetensors has no {}", name, c10::toString(tensor.scalar_type()));
}

}  // namespace

at::Tensor read_tensor(const TensorSource& source, const TensorInfo& tensor) {
  at::Tensor out = at::empty(tensor.shape, at::TensorOptions(scalar_type_of(tensor.type)));
  source.read(tensor, 0, tensor.numel(), out.data_ptr());
  return out;
}

at::Tensor read_tensor(const TensorSource& source, const std::string& name) {
  const TensorInfo* info = source.find(name);
  if (info == nullptr) {
    const auto& all = source.tensors();
    throw RequestError("{}: there is no tensor '{}'", all.empty() ? "no tensors" : "'" + source.where(all[0]) + "'",
                       name);
  }
  return read_tensor(source, *info);
}

TensorMap read_tensors(const std::filesystem::path& path) {
  const SafetensorsReader reader(path);
  TensorMap out;
  for (const auto& info : reader.tensors()) out.emplace(info.name, read_tensor(reader, info));
  return out;
}

void write_tensors(const std::filesystem::path& path, const TensorMap& tensors, const Metadata& metadata) {
  std::vector<TensorInfo> table;
  for (const auto& [name, tensor] : tensors) table.push_back({name, elem_of(tensor, name), tensor.sizes().vec()});
  SafetensorsWriter writer(path, table, metadata);
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor flat = tensor.detach().cpu().contiguous();
    writer.write(name, 0, flat.numel(), flat.const_data_ptr());
  }
  writer.commit();
}

}  // namespace tessera::io
