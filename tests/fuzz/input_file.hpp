#pragma once
// A fuzz input as a file without a disk, for readers that take a path or a folder.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace tessera::fuzz {

class InputAsFile {
 public:
  InputAsFile(const std::uint8_t* data, std::size_t size) : fd_(memfd_create("input", MFD_CLOEXEC)) {
    if (fd_ < 0 || write(fd_, data, size) != static_cast<ssize_t>(size)) std::abort();
  }
  ~InputAsFile() { close(fd_); }
  InputAsFile(const InputAsFile&) = delete;
  InputAsFile& operator=(const InputAsFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

/// A folder on disk in which one file is the input; the others are written once.
class InputFolder {
 public:
  explicit InputFolder(const std::string& name) : fd_(memfd_create("input", MFD_CLOEXEC)) {
    std::string path = (std::filesystem::temp_directory_path() / "tessera-fuzz-XXXXXX").string();
    if (fd_ < 0 || mkdtemp(path.data()) == nullptr) std::abort();
    folder_ = path;
    std::filesystem::create_symlink("/proc/self/fd/" + std::to_string(fd_), folder_ / name);
  }
  ~InputFolder() {
    close(fd_);
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  InputFolder(const InputFolder&) = delete;
  InputFolder& operator=(const InputFolder&) = delete;

  const std::filesystem::path& put(const std::uint8_t* data, std::size_t size) {
    if (ftruncate(fd_, 0) != 0 || pwrite(fd_, data, size, 0) != static_cast<ssize_t>(size)) std::abort();
    return folder_;
  }
  const std::filesystem::path& path() const noexcept { return folder_; }

 private:
  int fd_;
  std::filesystem::path folder_;
};

}  // namespace tessera::fuzz
