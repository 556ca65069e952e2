#include "io/torch_pickle.hpp"

#include <algorithm>
#include <array>
#include <optional>

#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

constexpr std::size_t kMostDimensions = 64;

struct StorageClass {
  std::string_view name;
  Elem type;
};
constexpr std::array<StorageClass, 10> kStorages{{{"torch.FloatStorage", Elem::f32},
                                                  {"torch.HalfStorage", Elem::f16},
                                                  {"torch.BFloat16Storage", Elem::bf16},
                                                  {"torch.DoubleStorage", Elem::f64},
                                                  {"torch.LongStorage", Elem::i64},
                                                  {"torch.IntStorage", Elem::i32},
                                                  {"torch.ShortStorage", Elem::i16},
                                                  {"torch.CharStorage", Elem::i8},
                                                  {"torch.ByteStorage", Elem::u8},
                                                  {"torch.BoolStorage", Elem::boolean}}};

std::optional<Elem> storage_type(std::string_view name) {
  for (const auto& known : kStorages) {
    if (known.name == name) return known.type;
  }
  return std::nullopt;
}

const std::string* text_of(const PickleNode& node) {
  return node.kind == PickleKind::text ? std::get_if<std::string>(&node.data) : nullptr;
}

std::optional<std::int64_t> count_of(const PickleNode& node) {
  if (node.kind != PickleKind::integer) return std::nullopt;
  const auto value = std::get<std::int64_t>(node.data);
  return value >= 0 ? std::optional(value) : std::nullopt;
}

std::optional<std::vector<std::int64_t>> counts_of(const PickleNode& node) {
  if (node.kind != PickleKind::tuple || node.items()->size() > kMostDimensions) return std::nullopt;
  std::vector<std::int64_t> out;
  for (const PickleNode* item : *node.items()) {
    const auto value = count_of(*item);
    if (!value) return std::nullopt;
    out.push_back(*value);
  }
  return out;
}

/// Arguments: storage, offset, shape, strides, and in the second version requires_grad and hooks, which mean nothing
/// here.
PickleNode* rebuild_tensor(PickleArena& arena, const PickleNode::Items& arguments) {
  if (arguments.size() < 4) return nullptr;
  const auto* storage = std::get_if<std::unique_ptr<const PickledStorage>>(&arguments[0]->data);
  const auto offset = count_of(*arguments[1]);
  auto shape = counts_of(*arguments[2]);
  auto strides = counts_of(*arguments[3]);
  if (storage == nullptr || !offset || !shape || !strides || shape->size() != strides->size()) return nullptr;
  PickledTensor tensor{storage->get(), *offset, std::move(*shape), std::move(*strides)};
  return arena.make(PickleKind::other, std::make_unique<const PickledTensor>(std::move(tensor)));
}

}  // namespace

bool TorchHooks::knows(std::string_view global) const {
  return PickleHooks::knows(global) || storage_type(global).has_value() || global == "torch._utils._rebuild_tensor" ||
         global == "torch._utils._rebuild_tensor_v2" || global == "torch._utils._rebuild_parameter";
}

PickleNode* TorchHooks::call(PickleArena& arena, const std::string& global, const PickleNode::Items& arguments) {
  if (global == "torch._utils._rebuild_tensor" || global == "torch._utils._rebuild_tensor_v2") {
    return rebuild_tensor(arena, arguments);
  }
  if (global == "torch._utils._rebuild_parameter") {  // the tensor itself, requires_grad, hooks
    const bool wraps =
        !arguments.empty() && std::holds_alternative<std::unique_ptr<const PickledTensor>>(arguments[0]->data);
    return wraps ? arguments[0] : nullptr;
  }
  return PickleHooks::call(arena, global, arguments);
}

PickleNode* TorchHooks::persistent(PickleArena& arena, const PickleNode& id) {
  // ("storage", class, key, device, numel[, view of another storage])
  const auto* parts = id.kind == PickleKind::tuple ? id.items() : nullptr;
  if (parts == nullptr || parts->size() < 5 || parts->size() > 6) return nullptr;
  const std::string* tag = text_of(*(*parts)[0]);
  const auto* global = std::get_if<PickledGlobal>(&(*parts)[1]->data);
  const std::string* key = text_of(*(*parts)[2]);
  const auto numel = count_of(*(*parts)[4]);
  if (tag == nullptr || *tag != "storage" || global == nullptr || key == nullptr || !numel) return nullptr;
  const auto type = storage_type(global->name);
  const bool is_view = parts->size() == 6 && (*parts)[5]->kind != PickleKind::none;
  if (!type || is_view) return nullptr;
  PickledStorage storage{*type, *key, *numel};
  const auto [it, fresh] = storages_.emplace(*key, storage);
  if (!fresh && it->second.type != *type) return nullptr;
  it->second.numel = std::max(it->second.numel, *numel);
  return arena.make(PickleKind::other, std::make_unique<const PickledStorage>(std::move(storage)));
}

void check_tensor(const PickledTensor& tensor, const std::string& origin, const std::string& name) {
  if (!checked_numel(tensor.shape)) {
    throw RequestError("'{}' tensor '{}': the shape {} is too large", origin, name, shape_text(tensor.shape));
  }
  if (std::find(tensor.shape.begin(), tensor.shape.end(), 0) != tensor.shape.end()) return;
  const std::int64_t numel = tensor.storage->numel;
  if (*checked_numel(tensor.shape) > numel) {  // a few bytes in the file could stand for any amount of memory
    throw RequestError("'{}' tensor '{}': shape {} over a storage of {} elements; save it with .contiguous()", origin,
                       name, shape_text(tensor.shape), numel);
  }
  std::int64_t last = tensor.offset;
  bool inside = last < numel;
  for (std::size_t i = 0; inside && i < tensor.shape.size(); ++i) {
    const std::int64_t steps = tensor.shape[i] - 1;
    if (steps > 0 && tensor.strides[i] > (numel - 1 - last) / steps) inside = false;
    if (inside) last += steps * tensor.strides[i];
  }
  if (!inside) {
    throw RequestError("'{}' tensor '{}': offset {}, shape {}, strides {} leave its storage of {} elements", origin,
                       name, tensor.offset, shape_text(tensor.shape), shape_text(tensor.strides), numel);
  }
}

bool is_contiguous(const PickledTensor& tensor) noexcept {
  std::int64_t expected = 1;
  for (std::size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

}  // namespace tessera::io
