#pragma once
/// safetensors files: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets: [begin,
/// end)}} relative to the data behind it, `__metadata__` with texts, then the data, row-major, without gaps.
/// Source: the format description of the safetensors project; a header that its own reader refuses is refused here.
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tessera/core/file.hpp"
#include "tessera/io/tensor_source.hpp"

namespace tessera::io {

using Metadata = std::map<std::string, std::string>;

/// One file. The header is checked in full when it is opened, before anything of its size is allocated: lengths,
/// dtypes, shapes, overlaps and gaps of the offsets, duplicate names, the file's size. Throws RequestError.
class SafetensorsReader : public TensorSource {
 public:
  explicit SafetensorsReader(const std::filesystem::path& path);
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  void read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count, void* out) const override;
  void will_read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count) const override;
  std::string where(const TensorInfo&) const override { return file_.path().string(); }
  const Metadata& metadata() const noexcept { return metadata_; }

 private:
  InputFile file_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::int64_t> offsets_;  ///< of tensors_[i] in the file, bytes
  Metadata metadata_;
};

/// Writes a file whose table is known before any data: then each tensor in pieces, in any order. Nothing appears under
/// the final name before commit(), which refuses a tensor that is not whole. Throws RunError.
class SafetensorsWriter {
 public:
  /// The data lie in the order of `table`, except that types of more bytes come first, so that each is aligned.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorInfo> table, const Metadata& metadata = {});
  /// Elements [begin, begin + count) of the tensor `name`, row-major, in the type of the table.
  void write(std::string_view name, std::int64_t begin, std::int64_t count, const void* data);
  void commit();

 private:
  struct Slot {
    TensorInfo info;
    std::int64_t offset = 0;   ///< bytes in the file
    std::int64_t written = 0;  ///< elements so far
  };
  std::filesystem::path path_;
  AtomicFile file_;
  std::map<std::string, Slot, std::less<>> slots_;
};

}  // namespace tessera::io
