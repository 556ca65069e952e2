#pragma once
/// DirectFile: one large file written once, front to back, at the speed of the disk and at little cost to whoever
/// computes meanwhile.
///
/// Where the file system allows it the data go past the page cache (O_DIRECT): no copy by the processor, no dirty pages
/// that a later fsync must wait for, and the cached pages of others stay. Elsewhere (tmpfs, some network file systems)
/// the writes are plain and their write-back is started as they come, so that the fsync at the end finds little left.
/// Not atomic: meant for files in a folder that is renamed when it is whole. Errors: RunError with the file's name and
/// the system's reason; a full disk shows in the constructor where the file system can reserve space.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

#include "tessera/core/file.hpp"

namespace tessera {

class DirectFile {
 public:
  /// Memory that is written without a copy starts at a multiple of this.
  static constexpr std::size_t kAlign = 4096;

  /// Creates or empties `path`. `bytes`: the size it will have, reserved now. Once `*cancelled` is true, the next write
  /// throws.
  DirectFile(std::filesystem::path path, std::int64_t bytes, const std::atomic<bool>* cancelled = nullptr);
  ~DirectFile();

  /// Aligned data at an aligned position are written from where they lie, others through a buffer.
  void append(const void* data, std::size_t bytes);
  std::int64_t position() const noexcept { return written_ + static_cast<std::int64_t>(buffered_); }
  /// Writes what is buffered, cuts the file to its exact size, and syncs it. Throws RunError unless the bytes promised
  /// were appended.
  void finish();
  bool direct() const noexcept { return direct_; }  ///< past the page cache

 private:
  struct Free {
    void operator()(std::byte* data) const noexcept;
  };
  void open();
  void write_out(const std::byte* data, std::size_t bytes);
  void leave_direct();
  [[noreturn]] void fail(int error) const;

  std::filesystem::path path_;
  std::int64_t bytes_;
  const std::atomic<bool>* cancelled_;
  Descriptor fd_;
  bool direct_ = false;
  std::unique_ptr<std::byte[], Free> buffer_;
  std::size_t buffered_ = 0;
  std::int64_t written_ = 0;
};

}  // namespace tessera
