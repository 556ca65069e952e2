#pragma once
/// What torch.save wrote: `pytorch_model*.bin`, `.pth`, `.pt`; the zip form and the one before torch 1.6. Its pickle is
/// run by the restricted machine of pickle.hpp, so that no file can make us run code; a class it does not know is
/// refused by its name. Tensors may share storages and have any strides. Data are read in place, never as a whole.
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tessera/core/file.hpp"
#include "tessera/io/tensor_source.hpp"

namespace tessera::io {

/// By its first bytes.
bool is_torch_file(const std::filesystem::path& path);

class TorchFileReader : public TensorSource {
 public:
  /// Tensors in dicts and lists inside the top one are named by the path to them: {"model": {"w": …}} gives "model.w".
  /// Throws RequestError: not such a file, cut short, a tensor outside its storage, a refused class, no dict at the
  /// top.
  explicit TorchFileReader(const std::filesystem::path& path);
  ~TorchFileReader() override;
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  void read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count, void* out) const override;
  void will_read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count) const override;
  std::string where(const TensorInfo&) const override { return file_.path().string(); }

 private:
  struct Slot {
    std::int64_t offset = 0;  ///< bytes in the file, of the first element
    bool contiguous = true;
    std::vector<std::int64_t> strides;  ///< elements
  };
  void gather(const TensorInfo& tensor, const Slot& slot, std::int64_t begin, std::int64_t count, void* out) const;
  InputFile file_;
  std::vector<TensorInfo> tensors_;
  std::vector<Slot> slots_;
  std::optional<MappedFile> mapped_;  ///< when a tensor is not contiguous
};

}  // namespace tessera::io
