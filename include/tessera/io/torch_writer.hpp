#pragma once
/// Writes what torch.load reads (also with weights_only): a dict of tensors in the zip form, for programs that look for
/// a `.bin` by its name, as LLaVA does for mm_projector.bin. Source: torch/serialization.py; PKWARE's APPNOTE.
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/core/file.hpp"
#include "tessera/io/tensor_source.hpp"

namespace tessera::io {

/// Tensors one after another; nothing appears under the final name before commit(). f32, f16, bf16 and i64. The whole
/// file stays below 4 GiB; larger states are for safetensors. Throws RunError.
class TorchFileWriter {
 public:
  explicit TorchFileWriter(const std::filesystem::path& path);
  /// `data`: info.numel() elements, row-major.
  void write(const TensorInfo& info, const void* data);
  void commit();

 private:
  struct Entry {
    std::string name;
    std::uint32_t crc = 0;
    std::uint32_t bytes = 0;
    std::uint32_t offset = 0;
  };
  void add_entry(const std::string& name, const void* data, std::size_t bytes);
  std::string pickle() const;
  std::filesystem::path path_;
  std::string prefix_;  ///< of the entries: the file's stem
  AtomicFile file_;
  std::vector<Entry> entries_;
  std::vector<TensorInfo> tensors_;
};

}  // namespace tessera::io
