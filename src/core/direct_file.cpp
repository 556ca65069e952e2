#include "tessera/core/direct_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

#include "tessera/core/error.hpp"

namespace tessera {
namespace {

/// One transfer. Large enough for the full speed of striped and virtual disks, small enough to stop soon when asked.
constexpr std::size_t kPiece = std::size_t{8} << 20;

}  // namespace

void DirectFile::Free::operator()(std::byte* data) const noexcept {
  std::free(data);
}

DirectFile::~DirectFile() = default;

DirectFile::DirectFile(std::filesystem::path path, std::int64_t bytes, const std::atomic<bool>* cancelled)
    : path_(std::move(path)), bytes_(bytes), cancelled_(cancelled) {
  open();
  if (bytes_ > 0 && ::fallocate(fd_.get(), 0, 0, bytes_) != 0 && errno != EOPNOTSUPP && errno != ENOSYS &&
      errno != EINTR && errno != EINVAL) {
    throw RunError("cannot reserve {} bytes for '{}': {}", bytes_, path_.string(), system_message(errno));
  }
}

void DirectFile::open() {
  constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;
  fd_ = Descriptor(::open(path_.c_str(), kFlags | O_DIRECT, 0666));
  direct_ = fd_.get() >= 0;
  if (!direct_ && errno == EINVAL) fd_ = Descriptor(::open(path_.c_str(), kFlags, 0666));
  if (fd_.get() < 0) throw RunError("cannot write '{}': {}", path_.string(), system_message(errno));
}

void DirectFile::fail(int error) const {
  throw RunError("cannot write '{}': {} of {} bytes written, then: {}", path_.string(), written_, bytes_,
                 system_message(error));
}

void DirectFile::leave_direct() {
  const int flags = ::fcntl(fd_.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd_.get(), F_SETFL, flags & ~O_DIRECT) != 0) fail(errno);
  direct_ = false;
}

void DirectFile::write_out(const std::byte* data, std::size_t bytes) {
  for (std::size_t done = 0; done < bytes;) {
    if (cancelled_ != nullptr && cancelled_->load(std::memory_order_relaxed)) {
      throw RunError("writing '{}' was called off after {} of {} bytes", path_.string(), written_, bytes_);
    }
    const std::size_t piece = std::min(bytes - done, kPiece);
    const ssize_t wrote = ::pwrite(fd_.get(), data + done, piece, written_);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0 && errno == EINVAL && direct_) {  // a device with larger blocks, or the end of a file
      leave_direct();
      continue;
    }
    if (wrote <= 0) fail(wrote < 0 ? errno : ENOSPC);
    // Write-back starts now; whether the system takes the hint changes nothing but the time of the final sync.
    if (!direct_) (void)::sync_file_range(fd_.get(), written_, wrote, SYNC_FILE_RANGE_WRITE);
    done += static_cast<std::size_t>(wrote);
    written_ += wrote;
    if (direct_ && written_ % static_cast<std::int64_t>(kAlign) != 0) leave_direct();  // a short write
  }
}

void DirectFile::append(const void* data, std::size_t bytes) {
  const auto* from = static_cast<const std::byte*>(data);
  if (buffered_ == 0 && reinterpret_cast<std::uintptr_t>(from) % kAlign == 0) {
    const std::size_t whole = bytes / kAlign * kAlign;
    write_out(from, whole);
    from += whole;
    bytes -= whole;
  }
  if (bytes > 0 && buffer_ == nullptr) {
    buffer_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlign, kPiece)));
    if (buffer_ == nullptr) throw std::bad_alloc();
  }
  while (bytes > 0) {
    const std::size_t piece = std::min(bytes, kPiece - buffered_);
    std::memcpy(buffer_.get() + buffered_, from, piece);
    buffered_ += piece;
    from += piece;
    bytes -= piece;
    if (buffered_ < kPiece) break;
    write_out(buffer_.get(), kPiece);
    buffered_ = 0;
  }
}

void DirectFile::finish() {
  if (position() != bytes_) throw RunError("'{}': {} bytes appended, {} promised", path_.string(), position(), bytes_);
  if (buffered_ > 0) {  // the end need not be a whole block
    if (direct_) leave_direct();
    write_out(buffer_.get(), buffered_);
    buffered_ = 0;
  }
  if (::ftruncate(fd_.get(), bytes_) != 0) fail(errno);
  const int sync_error = ::fsync(fd_.get()) != 0 ? errno : 0;
  const int close_error = fd_.close();  // a network file system tells here that the disk is full
  if (const int error = sync_error != 0 ? sync_error : close_error; error != 0) fail(error);
}

}  // namespace tessera
