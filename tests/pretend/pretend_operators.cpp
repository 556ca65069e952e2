// The operators of the pretended device: views and copies of its own, all else by the CPU's kernels on the same memory.
#include <ATen/core/Tensor.h>
#include <ATen/core/boxing/KernelFunction.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/stack.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "pretend/pretend_device.hpp"

namespace tessera::pretend {
namespace {

constexpr auto kType = c10::DeviceType::PrivateUse1;

bool on_device(const at::Tensor& t) {
  return t.defined() && t.device().type() == kType;
}

// The same memory, as the CPU's kernels take it.
at::Tensor host_view(const at::Tensor& t) {
  return at::from_blob(
      t.data_ptr(), t.sizes(), t.strides(), [keep = t](void*) {}, at::TensorOptions().dtype(t.dtype()));
}

at::Tensor device_owner(const at::Tensor& host) {
  auto* keep = new at::Tensor(host);
  c10::DataPtr data(
      host.data_ptr(), keep, [](void* p) { delete static_cast<at::Tensor*>(p); }, device());
  const auto bytes = host.storage().nbytes() - static_cast<std::size_t>(host.storage_offset()) * host.itemsize();
  c10::Storage storage(c10::Storage::use_byte_size_t{}, bytes, std::move(data), nullptr, false);
  auto out = at::detail::make_tensor<c10::TensorImpl>(std::move(storage),
                                                      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), host.dtype());
  out.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides());
  return out;
}

// `change` of a tensor, or of each of a list.
template <class Change>
void replace_tensors(c10::IValue& value, const Change& change) {
  if (value.isTensor()) {
    value = change(value.toTensor());
  } else if (value.isTensorList()) {
    std::vector<at::Tensor> all;
    for (const at::Tensor& t : value.toTensorVector()) all.push_back(change(t));
    value = c10::List<at::Tensor>(all);
  }
}

// One call of an operator: its tensors as the CPU's kernel takes them, and the way back.
class Call {
 public:
  explicit Call(const c10::OperatorHandle& op) : op_(op) {}

  void run(torch::jit::Stack* stack) {
    const auto& schema = op_.schema();
    const std::size_t first = stack->size() - schema.arguments().size();
    for (std::size_t i = first; i < stack->size(); ++i) to_host((*stack)[i]);
    TORCH_CHECK(!(any_host_ && any_device_), op_.schema().operator_name(),
                ": tensors of the host and of the device in one call");
    try {
      op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
    } catch (c10::Error& error) {
      error.add_context(c10::toString(schema.operator_name()));
      throw;
    }
    const std::size_t results = stack->size() - schema.returns().size();
    for (std::size_t i = results; i < stack->size(); ++i) to_device((*stack)[i]);
  }

 private:
  at::Tensor host(const at::Tensor& t) {
    if (!t.defined()) return t;
    if (!on_device(t)) {
      any_host_ = any_host_ || t.dim() > 0;  // a scalar may come from the host, as with CUDA
      return t;
    }
    any_device_ = true;
    // An empty one may be the place of a result, which gives it its size.
    auto view = t.numel() == 0 ? at::empty(t.sizes(), at::TensorOptions().dtype(t.dtype())) : host_view(t);
    originals_.emplace(view.unsafeGetTensorImpl(), t);
    views_.push_back(view);
    return view;
  }

  void to_host(c10::IValue& value) {
    replace_tensors(value, [this](const at::Tensor& t) { return host(t); });
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> all;
      for (const std::optional<at::Tensor>& t : value.toOptionalTensorVector()) {
        all.push_back(t ? std::optional(host(*t)) : std::nullopt);
      }
      value = all;
    } else if (value.isDevice() && value.toDevice().type() == kType) {
      value = c10::Device(c10::DeviceType::CPU);
    }
  }

  at::Tensor back(const at::Tensor& t) {
    if (!t.defined()) return t;
    if (const auto it = originals_.find(t.unsafeGetTensorImpl()); it != originals_.end()) {
      if (it->second.sizes() != t.sizes())
        it->second.unsafeGetTensorImpl()->shallow_copy_from(device_owner(t).getIntrusivePtr());
      return it->second;
    }
    for (const auto& view : views_) {
      TORCH_CHECK(!t.is_alias_of(view), op_.schema().operator_name(), ": a view that the pretended device lacks");
    }
    return device_owner(t);
  }

  void to_device(c10::IValue& value) {
    replace_tensors(value, [this](const at::Tensor& t) { return back(t); });
  }

  const c10::OperatorHandle& op_;
  std::unordered_map<c10::TensorImpl*, at::Tensor> originals_;
  std::vector<at::Tensor> views_;
  bool any_host_ = false, any_device_ = false;
};

void by_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Call(op).run(stack);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  const auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  const auto strides = C10_AS_INTARRAYREF_SLOW(stride);
  const auto type = c10::scalarTypeToTypeMeta(dtype.value_or(at::kFloat));
  std::int64_t last = 1;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    last = sizes[i] == 0 ? 0 : last + (last == 0 ? 0 : (sizes[i] - 1) * strides[i]);
    if (last == 0) break;
  }
  auto* memory = c10::GetAllocator(kType);
  const std::size_t bytes = static_cast<std::size_t>(last) * type.itemsize();
  c10::Storage storage(c10::Storage::use_byte_size_t{}, bytes, memory->allocate(bytes), memory, true);
  auto out = at::detail::make_tensor<c10::TensorImpl>(std::move(storage),
                                                      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type);
  out.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides);
  return out;
}

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout,
                 std::optional<at::Device> where, std::optional<bool> pinned, std::optional<at::MemoryFormat> format) {
  const auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  const auto memory_format = format.value_or(at::MemoryFormat::Contiguous);
  std::vector<std::int64_t> strides;
  if (memory_format == at::MemoryFormat::ChannelsLast) {
    strides = c10::get_channels_last_strides_2d(sizes);
  } else {
    strides.assign(sizes.size(), 1);
    for (std::size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<std::int64_t>(sizes[i], 1);
  }
  return empty_strided(size, c10::fromIntArrayRefSlow(strides), dtype, layout, where, pinned);
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  const auto source = on_device(from) ? host_view(from) : from;
  auto target = on_device(to) ? host_view(to) : to;
  target.copy_(source);
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  TORCH_CHECK(from.sizes() == to.sizes(), "the pretended device does not resize");
  return copy_from(from, to, false);
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}

at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                      std::optional<c10::SymInt> offset) {
  const auto at = offset ? std::optional(offset->expect_int()) : std::nullopt;
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), at);
}

at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

at::Tensor& set_storage(at::Tensor& self, c10::Storage source, c10::SymInt offset, c10::SymIntArrayRef size,
                        c10::SymIntArrayRef stride) {
  TORCH_CHECK(source.device() == device(), "set_: a storage that is not the device's");
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), offset.expect_int());
  return self;
}

at::Tensor unfold(const at::Tensor& self, std::int64_t dimension, std::int64_t size, std::int64_t step) {
  return at::native::unfold(self, dimension, size, step);
}

at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
                       bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  const bool biased = bias && bias->defined();
  TORCH_CHECK(on_device(input) && on_device(weight) && (!biased || on_device(*bias)),
              "convolution: tensors of the host and of the device in one call");
  const auto host_bias = biased ? std::optional(host_view(*bias)) : std::nullopt;
  return device_owner(at::convolution_symint(host_view(input), host_view(weight), host_bias, stride, padding, dilation,
                                             transposed, output_padding, std::move(groups)));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& gradient, const at::Tensor& input, const at::Tensor& weight, c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef output_padding,
    c10::SymInt groups, std::array<bool, 3> wanted) {
  TORCH_CHECK(on_device(gradient) && on_device(input) && on_device(weight),
              "convolution's backward: tensors of the host and of the device in one call");
  const std::vector<c10::SymInt> bias{weight.sym_size(transposed ? 1 : 0)};
  const auto out = at::convolution_backward_symint(host_view(gradient), host_view(input), host_view(weight),
                                                   c10::SymIntArrayRef(bias), stride, padding, dilation, transposed,
                                                   output_padding, std::move(groups), wanted);
  const auto owned = [](const at::Tensor& t) { return t.defined() ? device_owner(t) : t; };
  return {owned(std::get<0>(out)), owned(std::get<1>(out)), owned(std::get<2>(out))};
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&by_cpu>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("_copy_from", copy_from);
  library.impl("_copy_from_and_resize", copy_from_and_resize);
  library.impl("view", view);
  library.impl("as_strided", as_strided);
  library.impl("_reshape_alias", reshape_alias);
  library.impl("set_.source_Storage_storage_offset", set_storage);
  library.impl("unfold", unfold);
  library.impl("convolution_overrideable", convolution);
  library.impl("convolution_backward_overrideable", convolution_backward);
}

}  // namespace
}  // namespace tessera::pretend
