#include "io/torch_archive.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "io/zip_archive.hpp"
#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

/// torch's magic number 0x1950a86a20f9469cfc6c as a pickle of its own, behind the protocol's two bytes.
constexpr std::string_view kLegacyMagic("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 13);
constexpr std::string_view kZipMagic("PK\x03\x04", 4);
constexpr std::int64_t kMostPickleBytes = std::int64_t{1} << 28;

PickleLimits limits_for_models() {
  return {.max_bytes = kMostPickleBytes};
}

std::string read_entry(const InputFile& file, const ZipEntry& entry, std::int64_t limit, const std::string& name) {
  if (entry.size > limit) {
    throw RequestError("'{}': its '{}' has {} bytes, the limit is {}", file.path().string(), name, entry.size, limit);
  }
  std::string out(static_cast<std::size_t>(entry.size), '\0');
  file.read(entry.offset, out.data(), out.size());
  return out;
}

void check_storage(const PickledStorage& storage, std::int64_t bytes, const std::string& file) {
  const auto size = static_cast<std::int64_t>(size_of(storage.type));
  if (storage.numel > bytes / size) {
    throw RequestError("'{}': storage '{}' should hold {} {} elements and has {} bytes", file, storage.key,
                       storage.numel, name_of(storage.type), bytes);
  }
}

}  // namespace

TorchLayout torch_layout(const InputFile& file) {
  std::array<char, 16> head{};
  const auto size = static_cast<std::size_t>(std::min<std::int64_t>(file.size(), head.size()));
  file.read(0, head.data(), size);
  const std::string_view text(head.data(), size);
  // A safetensors file may begin with any of these bytes, but then its ninth is '{'.
  if (text.starts_with(kZipMagic) && text.size() > 8 && text[8] != '{') return TorchLayout::zip;
  if (text.size() > 2 && text[0] == '\x80' && text.substr(2).starts_with(kLegacyMagic)) return TorchLayout::legacy;
  return TorchLayout::none;
}

TorchArchive read_torch_zip(const InputFile& file) {
  const std::string name = file.path().string();
  const auto entries = read_zip_directory(file);
  const auto pickle = std::find_if(entries.begin(), entries.end(), [](const auto& entry) {
    return entry.first.ends_with("/data.pkl") && entry.first.find('/') == entry.first.size() - 9;
  });
  if (pickle == entries.end())
    throw RequestError("'{}': a zip archive without data.pkl; torch.save did not write it", name);
  const std::string folder = pickle->first.substr(0, pickle->first.size() - 8);
  if (const auto order = entries.find(folder + "byteorder"); order != entries.end()) {
    if (read_entry(file, order->second, 64, order->first) != "little") {
      throw RequestError("'{}': written on a big-endian machine", name);
    }
  }
  const std::string text = read_entry(file, pickle->second, kMostPickleBytes, pickle->first);
  TorchArchive archive;
  const PickleLimits limits = limits_for_models();
  archive.arena = std::make_shared<PickleArena>(name, limits.max_values);
  TorchHooks hooks;
  PickleMachine machine(*archive.arena, hooks, std::as_bytes(std::span(text)), limits);
  archive.root = machine.run();
  for (const auto& [key, storage] : hooks.storages()) {
    const auto entry = entries.find(folder + "data/" + key);
    if (entry == entries.end()) throw RequestError("'{}': storage '{}' is not in the archive", name, key);
    check_storage(storage, entry->second.size, name);
    archive.storage_offsets.emplace(key, entry->second.offset);
  }
  return archive;
}

namespace {

/// The pickles that stand one after another at the head of a legacy file.
class LegacyReader {
 public:
  explicit LegacyReader(const InputFile& file) : mapped_(file.path()), name_(file.path().string()) {
    archive_.arena = std::make_shared<PickleArena>(name_, limits_for_models().max_values);
  }

  TorchArchive read() {
    next();                              // the magic number, seen already
    const PickleNode* version = next();  // of the layout
    const auto* number = std::get_if<std::int64_t>(&version->data);
    if (number == nullptr || *number != 1001)
      throw RequestError("'{}': an unknown version of torch's old layout", name_);
    check_system(*next());
    archive_.root = next();
    const PickleNode* keys = next();
    if (keys->kind != PickleKind::list) throw RequestError("'{}': the list of storages is missing", name_);
    for (const PickleNode* key : *keys->items()) place_storage(*key);
    if (archive_.storage_offsets.size() != hooks_.storages().size()) {
      throw RequestError("'{}': {} storages are listed, {} are used", name_, archive_.storage_offsets.size(),
                         hooks_.storages().size());
    }
    return std::move(archive_);
  }

 private:
  const PickleNode* next() {
    const auto rest = mapped_.bytes().subspan(at_);
    const auto limit = std::min<std::size_t>(rest.size(), static_cast<std::size_t>(kMostPickleBytes));
    PickleMachine machine(*archive_.arena, hooks_, rest.first(limit), limits_for_models());
    const PickleNode* root = machine.run();
    at_ += machine.consumed();
    return root;
  }

  void check_system(const PickleNode& info) const {
    const auto* items = info.kind == PickleKind::dict ? info.items() : nullptr;
    for (std::size_t i = 0; items != nullptr && i + 1 < items->size(); i += 2) {
      const auto* key = std::get_if<std::string>(&(*items)[i]->data);
      const auto* value = std::get_if<bool>(&(*items)[i + 1]->data);
      if (key != nullptr && *key == "little_endian" && value != nullptr && !*value) {
        throw RequestError("'{}': written on a big-endian machine", name_);
      }
    }
  }

  /// Each storage: its element count in 8 bytes, then the elements.
  void place_storage(const PickleNode& key) {
    const auto* text = key.kind == PickleKind::text ? std::get_if<std::string>(&key.data) : nullptr;
    const auto known = text != nullptr ? hooks_.storages().find(*text) : hooks_.storages().end();
    if (known == hooks_.storages().end()) throw RequestError("'{}': a storage that no tensor uses", name_);
    const auto left = mapped_.bytes().size() - at_;
    std::int64_t numel = 0;
    if (left < sizeof numel) throw RequestError("'{}': it ends before storage '{}'; is it cut short?", name_, *text);
    std::memcpy(&numel, mapped_.bytes().data() + at_, sizeof numel);
    at_ += sizeof numel;
    const auto room = static_cast<std::int64_t>(left - sizeof numel);
    const auto size = static_cast<std::int64_t>(size_of(known->second.type));
    if (numel < known->second.numel || numel > room / size) {
      throw RequestError("'{}': storage '{}' claims {} elements, {} bytes are left in the file; is it cut short?",
                         name_, *text, numel, room);
    }
    if (!archive_.storage_offsets.emplace(*text, static_cast<std::int64_t>(at_)).second) {
      throw RequestError("'{}': storage '{}' is listed twice", name_, *text);
    }
    at_ += static_cast<std::size_t>(numel * size);
  }

  MappedFile mapped_;
  std::string name_;
  std::size_t at_ = 0;
  TorchHooks hooks_;
  TorchArchive archive_;
};

}  // namespace

TorchArchive read_torch_legacy(const InputFile& file) {
  return LegacyReader(file).read();
}

}  // namespace tessera::io
