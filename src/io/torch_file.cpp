#include "tessera/io/torch_file.hpp"

#include <algorithm>
#include <cstring>
#include <map>

#include "io/torch_archive.hpp"
#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

using Found = std::map<std::string, const PickledTensor*>;

std::string key_text(const PickleNode& key, const std::string& file) {
  if (const auto* text = std::get_if<std::string>(&key.data)) return *text;
  if (const auto* number = std::get_if<std::int64_t>(&key.data)) return fmt::format("{}", *number);
  throw RequestError("'{}': a dict whose key is neither str nor int", file);
}

/// Tensors below `node`, named by the path to them. The tree has no cycles and bounded height; see PickleMachine.
void collect(const PickleNode& node, const std::string& path, const std::string& file, Found& found) {
  if (const auto* tensor = std::get_if<std::unique_ptr<const PickledTensor>>(&node.data)) {
    if (!found.emplace(path, tensor->get()).second) throw RequestError("'{}': two tensors named '{}'", file, path);
    return;
  }
  const auto* items = node.items();
  if (items == nullptr) return;
  const std::string prefix = path.empty() ? "" : path + ".";
  const bool is_dict = node.kind == PickleKind::dict;
  for (std::size_t i = 0; i < items->size(); i += is_dict ? 2 : 1) {
    const PickleNode& value = *(*items)[is_dict ? i + 1 : i];
    if (value.items() == nullptr && !std::holds_alternative<std::unique_ptr<const PickledTensor>>(value.data)) continue;
    collect(value, prefix + (is_dict ? key_text(*(*items)[i], file) : fmt::format("{}", i)), file, found);
  }
}

TorchArchive read_archive(const InputFile& file) {
  switch (torch_layout(file)) {
    case TorchLayout::zip:
      return read_torch_zip(file);
    case TorchLayout::legacy:
      return read_torch_legacy(file);
    case TorchLayout::none:
      break;
  }
  throw RequestError("'{}': torch.save did not write it (neither its zip form nor the older one)",
                     file.path().string());
}

}  // namespace

bool is_torch_file(const std::filesystem::path& path) {
  return torch_layout(InputFile(path)) != TorchLayout::none;
}

TorchFileReader::~TorchFileReader() = default;

TorchFileReader::TorchFileReader(const std::filesystem::path& path) : file_(path) {
  const TorchArchive archive = read_archive(file_);
  const std::string name = path.string();
  if (archive.root->kind != PickleKind::dict) throw RequestError("'{}': does not hold a dict of tensors", name);
  Found found;
  collect(*archive.root, "", name, found);
  bool needs_map = false;
  for (const auto& [tensor_name, tensor] : found) {
    check_tensor(*tensor, name, tensor_name);
    const auto size = static_cast<std::int64_t>(size_of(tensor->storage->type));
    Slot slot;
    slot.contiguous = is_contiguous(*tensor);
    slot.offset = archive.storage_offsets.at(tensor->storage->key) + tensor->offset * size;
    slot.strides = tensor->strides;
    needs_map = needs_map || !slot.contiguous;
    tensors_.push_back({tensor_name, tensor->storage->type, tensor->shape});
    slots_.push_back(std::move(slot));
  }
  if (needs_map) mapped_.emplace(path);
}

void TorchFileReader::read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count, void* out) const {
  const TensorInfo* own = find(tensor.name);
  if (own == nullptr) throw RequestError("'{}': has no tensor '{}'", file_.path().string(), tensor.name);
  const std::int64_t numel = own->numel();
  if (begin < 0 || count < 0 || begin > numel || count > numel - begin) {
    throw RequestError("'{}' tensor '{}': elements {} to {} were asked for, it has {}", file_.path().string(),
                       tensor.name, begin, begin + count, numel);
  }
  if (count == 0) return;
  const Slot& slot = slots_[static_cast<std::size_t>(own - tensors_.data())];
  const auto size = static_cast<std::int64_t>(size_of(own->type));
  if (slot.contiguous) {
    file_.read(slot.offset + begin * size, out, static_cast<std::size_t>(count * size));
  } else {
    gather(*own, slot, begin, count, out);
  }
}

void TorchFileReader::will_read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count) const {
  const TensorInfo* own = find(tensor.name);
  if (own == nullptr) return;
  const Slot& slot = slots_[static_cast<std::size_t>(own - tensors_.data())];
  const auto size = static_cast<std::int64_t>(size_of(own->type));
  if (slot.contiguous) file_.will_read(slot.offset + begin * size, count * size);
}

void TorchFileReader::gather(const TensorInfo& tensor, const Slot& slot, std::int64_t begin, std::int64_t count,
                             void* out) const {
  const auto size = static_cast<std::int64_t>(size_of(tensor.type));
  const std::byte* base = mapped_->bytes().data() + slot.offset;
  char* to = static_cast<char*>(out);
  const std::size_t dimensions = tensor.shape.size();
  std::vector<std::int64_t> index(dimensions);
  std::int64_t rest = begin;
  std::int64_t element = 0;
  for (std::size_t d = dimensions; d-- > 0;) {
    index[d] = rest % tensor.shape[d];
    rest /= tensor.shape[d];
    element += index[d] * slot.strides[d];
  }
  for (std::int64_t i = 0; i < count; ++i, to += size) {
    std::memcpy(to, base + element * size, static_cast<std::size_t>(size));
    for (std::size_t d = dimensions; d-- > 0;) {  // the next index, row-major
      element += slot.strides[d];
      if (++index[d] < tensor.shape[d]) break;
      element -= index[d] * slot.strides[d];
      index[d] = 0;
    }
  }
}

}  // namespace tessera::io
