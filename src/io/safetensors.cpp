#include "tessera/io/safetensors.hpp"

#include <algorithm>
#include <array>
#include <bit>

#include "io/safetensors_header.hpp"
#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

static_assert(std::endian::native == std::endian::little,
              "tensors in files are little-endian and are read as they lie");

constexpr std::int64_t kLengthBytes = 8;
constexpr std::int64_t kMostHeaderBytes = 100'000'000;  // the limit of the format's own reader

std::string read_header_text(const InputFile& file) {
  const std::string name = file.path().string();
  if (file.size() < kLengthBytes) throw RequestError("'{}': {} bytes are too few for safetensors", name, file.size());
  std::array<unsigned char, kLengthBytes> raw{};
  file.read(0, raw.data(), raw.size());
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < raw.size(); ++i) length |= std::uint64_t{raw[i]} << (8 * i);
  if (length > static_cast<std::uint64_t>(kMostHeaderBytes)) {
    throw RequestError("'{}': a header of {} bytes is too long; is it a safetensors file?", name, length);
  }
  if (static_cast<std::int64_t>(length) > file.size() - kLengthBytes) {
    throw RequestError("'{}': a header of {} bytes in a file of {}; is it cut short?", name, length, file.size());
  }
  std::string text(length, '\0');
  file.read(kLengthBytes, text.data(), text.size());
  if (text.empty() || text[0] != '{') throw RequestError("'{}': the header does not begin with '{{'", name);
  return text;
}

}  // namespace

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path) : file_(path) {
  const std::string text = read_header_text(file_);
  const std::int64_t data_begin = kLengthBytes + static_cast<std::int64_t>(text.size());
  SafetensorsHeader header = parse_safetensors_header(text, file_.size() - data_begin, path.string());
  for (auto& entry : header.entries) {
    tensors_.push_back(std::move(entry.info));
    offsets_.push_back(data_begin + entry.begin);
  }
  metadata_ = std::move(header.metadata);
}

void SafetensorsReader::read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count, void* out) const {
  const TensorInfo* own = find(tensor.name);
  if (own == nullptr) throw RequestError("'{}': has no tensor '{}'", file_.path().string(), tensor.name);
  const std::int64_t numel = own->numel();
  if (begin < 0 || count < 0 || begin > numel || count > numel - begin) {
    throw RequestError("'{}' tensor '{}': elements {} to {} were asked for, it has {}", file_.path().string(),
                       tensor.name, begin, begin + count, numel);
  }
  const auto size = static_cast<std::int64_t>(size_of(own->type));
  file_.read(offsets_[static_cast<std::size_t>(own - tensors_.data())] + begin * size, out,
             static_cast<std::size_t>(count * size));
}

void SafetensorsReader::will_read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count) const {
  const TensorInfo* own = find(tensor.name);
  if (own == nullptr) return;
  const auto size = static_cast<std::int64_t>(size_of(own->type));
  file_.will_read(offsets_[static_cast<std::size_t>(own - tensors_.data())] + begin * size, count * size);
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorInfo> table,
                                     const Metadata& metadata)
    : path_(path), file_(path) {
  std::stable_sort(table.begin(), table.end(),
                   [](const TensorInfo& a, const TensorInfo& b) { return size_of(a.type) > size_of(b.type); });
  std::vector<HeaderEntry> entries;
  std::int64_t end = 0;
  for (auto& info : table) {
    const auto numel = checked_numel(info.shape);
    if (!numel) throw RunError("'{}' tensor '{}': shape {}", path.string(), info.name, shape_text(info.shape));
    const std::int64_t begin = end;
    end += *numel * static_cast<std::int64_t>(size_of(info.type));
    entries.push_back({std::move(info), begin, end});
  }
  const std::string header = format_safetensors_header(entries, metadata);
  const std::int64_t data_begin = kLengthBytes + static_cast<std::int64_t>(header.size());
  for (auto& entry : entries) {
    std::string name = entry.info.name;
    const auto [it, fresh] = slots_.emplace(name, Slot{std::move(entry.info), data_begin + entry.begin, 0});
    if (!fresh || name == "__metadata__") throw RunError("'{}': the tensor name '{}' is taken", path.string(), name);
  }
  file_.reserve(data_begin + end);
  std::array<unsigned char, kLengthBytes> length{};
  for (std::size_t i = 0; i < length.size(); ++i) length[i] = static_cast<unsigned char>(header.size() >> (8 * i));
  file_.append(length.data(), length.size());
  file_.append(header);
}

void SafetensorsWriter::write(std::string_view name, std::int64_t begin, std::int64_t count, const void* data) {
  const auto it = slots_.find(name);
  if (it == slots_.end()) throw RunError("'{}': tensor '{}' is not in the table", path_.string(), name);
  Slot& slot = it->second;
  const std::int64_t numel = slot.info.numel();
  if (begin < 0 || count < 0 || begin > numel || count > numel - begin || slot.written + count > numel) {
    throw RunError("'{}' tensor '{}': elements {} to {} written, {} before, it has {}", path_.string(), name, begin,
                   begin + count, slot.written, numel);
  }
  const auto size = static_cast<std::int64_t>(size_of(slot.info.type));
  file_.write_at(slot.offset + begin * size, data, static_cast<std::size_t>(count * size));
  slot.written += count;
}

void SafetensorsWriter::commit() {
  for (const auto& [name, slot] : slots_) {
    if (slot.written != slot.info.numel()) {
      throw RunError("'{}' tensor '{}': {} of {} elements were written", path_.string(), name, slot.written,
                     slot.info.numel());
    }
  }
  file_.commit();
}

}  // namespace tessera::io
