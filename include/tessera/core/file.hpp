#pragma once
/// Files: whole or not at all when written, errors with path, bytes and the system's own words.
///
/// Reading errors are RequestError (the user named the file), writing errors RunError (the disk is full, …).
/// None of it is collective.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tessera {

/// Owns a file descriptor.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) noexcept : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor();
  int get() const noexcept { return fd_; }
  /// Closes now; the system's error number, 0 when all went well. A late write error shows here on network file
  /// systems.
  [[nodiscard]] int close() noexcept;

 private:
  int fd_ = -1;
};

/// A name beside `final_path` under which something is written; commit() syncs the file, renames it to the final name
/// and syncs the directory. Without commit() the destructor removes it, so that a name never stands for half a file.
class PartialPath {
 public:
  explicit PartialPath(std::filesystem::path final_path);
  PartialPath(PartialPath&&) noexcept;
  PartialPath& operator=(PartialPath&&) noexcept;
  ~PartialPath();
  const std::filesystem::path& path() const noexcept { return partial_; }
  const std::filesystem::path& final_path() const noexcept { return final_; }
  void commit();

 private:
  std::filesystem::path final_;
  std::filesystem::path partial_;  ///< empty once committed or moved from
};

/// A file that appears under its name only when it is complete. A failed write throws RunError with the file, the bytes
/// written so far and the system's reason; the partial file is removed.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path final_path);
  /// Asks the file system for the space now, so that a full disk shows before the work; a no-op where it cannot
  /// promise.
  void reserve(std::int64_t bytes);
  void append(const void* data, std::size_t bytes);
  void append(std::string_view text) { append(text.data(), text.size()); }
  void write_at(std::int64_t offset, const void* data, std::size_t bytes);
  /// Bytes appended so far.
  std::int64_t position() const noexcept { return position_; }
  void commit();

 private:
  PartialPath partial_;
  Descriptor fd_;
  std::int64_t position_ = 0;
};

/// A file open for reading at any offset, from any number of threads.
class InputFile {
 public:
  explicit InputFile(std::filesystem::path path);
  const std::filesystem::path& path() const noexcept { return path_; }
  std::int64_t size() const noexcept { return size_; }  ///< bytes, when it was opened
  /// Throws RequestError when the range is not wholly inside the file, or the file became shorter.
  void read(std::int64_t offset, void* out, std::size_t bytes) const;
  /// A hint: the system may start to read the range from the disk.
  void will_read(std::int64_t offset, std::int64_t bytes) const noexcept;

 private:
  std::filesystem::path path_;
  Descriptor fd_;
  std::int64_t size_ = 0;
};

/// A whole file mapped read-only. Its bytes must not shrink while mapped: use InputFile for files others may write.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  std::span<const std::byte> bytes() const noexcept { return {data_.get(), size_}; }

 private:
  struct Unmap {
    std::size_t size;
    Unmap() noexcept : size(0) {}
    explicit Unmap(std::size_t bytes) noexcept : size(bytes) {}
    void operator()(const std::byte* data) const noexcept;
  };
  std::unique_ptr<const std::byte[], Unmap> data_;
  std::size_t size_ = 0;
};

/// The whole file. Throws RequestError when it is not readable or larger than `max_bytes`.
std::string read_file(const std::filesystem::path& path, std::int64_t max_bytes = std::int64_t{1} << 28);

/// Writes the whole file by AtomicFile.
void write_file(const std::filesystem::path& path, std::string_view content);

/// Regular files in `directory`, sorted by path; `extensions` (".jpg", lower case) keeps only those, in any case.
std::vector<std::filesystem::path> list_files(const std::filesystem::path& directory,
                                              const std::vector<std::string>& extensions = {}, bool recursive = false);

/// Makes a rename in `directory` last through a crash.
void sync_directory(const std::filesystem::path& directory);

/// Throws RunError unless `directory` exists afterwards.
void make_directories(const std::filesystem::path& directory);

/// The system's words for an error number, thread-safe.
std::string system_message(int error_number);

}  // namespace tessera
