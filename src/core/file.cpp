#include "tessera/core/file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "tessera/core/error.hpp"

namespace tessera {
namespace {

namespace fs = std::filesystem;

/// The kernel moves at most 2 GiB in one call.
constexpr std::size_t kLargestTransfer = std::size_t{1} << 30;

Descriptor open_for_reading(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw RequestError("cannot open '{}': {}", path.string(), system_message(errno));
  return Descriptor(fd);
}

struct stat status_of(const Descriptor& fd, const fs::path& path) {
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0)
    throw RequestError("cannot examine '{}': {}", path.string(), system_message(errno));
  if (S_ISDIR(status.st_mode)) throw RequestError("cannot read '{}': it is a directory", path.string());
  return status;
}

std::string random_suffix() {
  std::uint64_t bits = 0;
  if (::getrandom(&bits, sizeof bits, 0) != static_cast<ssize_t>(sizeof bits)) {
    throw RunError("the system gave no random bytes: {}", system_message(errno));
  }
  return fmt::format("{:016x}", bits);
}

void sync_file(const fs::path& path) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0 || ::fsync(fd.get()) != 0)
    throw RunError("cannot sync '{}': {}", path.string(), system_message(errno));
}

}  // namespace

std::string system_message(int error_number) {
  return std::generic_category().message(error_number);
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

int Descriptor::close() noexcept {
  const int fd = std::exchange(fd_, -1);
  return fd >= 0 && ::close(fd) != 0 ? errno : 0;
}

PartialPath::PartialPath(fs::path final_path) : final_(std::move(final_path)) {
  if (final_.filename().empty()) throw RunError("cannot write '{}': it names no file", final_.string());
  // Hidden, so that readers that list the folder do not take it for a finished file.
  partial_ = final_.parent_path() / ("." + final_.filename().string() + ".partial-" + random_suffix());
}

PartialPath::PartialPath(PartialPath&& other) noexcept
    : final_(std::move(other.final_)), partial_(std::exchange(other.partial_, {})) {}

PartialPath& PartialPath::operator=(PartialPath&& other) noexcept {
  std::swap(final_, other.final_);
  std::swap(partial_, other.partial_);
  return *this;
}

PartialPath::~PartialPath() {
  std::error_code ignored;
  if (!partial_.empty()) fs::remove_all(partial_, ignored);
}

void PartialPath::commit() {
  sync_file(partial_);
  if (::rename(partial_.c_str(), final_.c_str()) != 0) {
    throw RunError("cannot rename '{}' to '{}': {}", partial_.string(), final_.string(), system_message(errno));
  }
  partial_.clear();
  sync_directory(final_.parent_path());
}

AtomicFile::AtomicFile(fs::path final_path) : partial_(std::move(final_path)) {
  fd_ = Descriptor(::open(partial_.path().c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (fd_.get() < 0) throw RunError("cannot write '{}': {}", partial_.final_path().string(), system_message(errno));
}

void AtomicFile::reserve(std::int64_t bytes) {
  if (bytes <= 0 || ::fallocate(fd_.get(), FALLOC_FL_KEEP_SIZE, 0, bytes) == 0) return;
  if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINTR || errno == EINVAL) return;
  throw RunError("cannot reserve {} bytes for '{}': {}", bytes, partial_.final_path().string(), system_message(errno));
}

void AtomicFile::append(const void* data, std::size_t bytes) {
  write_at(position_, data, bytes);
  position_ += static_cast<std::int64_t>(bytes);
}

void AtomicFile::write_at(std::int64_t offset, const void* data, std::size_t bytes) {
  const char* from = static_cast<const char*>(data);
  std::size_t done = 0;
  while (done < bytes) {
    const std::size_t piece = std::min(bytes - done, kLargestTransfer);
    const ssize_t wrote = ::pwrite(fd_.get(), from + done, piece, offset + static_cast<std::int64_t>(done));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) {
      throw RunError("cannot write '{}': {} of {} bytes written at offset {}: {}", partial_.final_path().string(), done,
                     bytes, offset, wrote < 0 ? system_message(errno) : "the system took none");
    }
    done += static_cast<std::size_t>(wrote);
  }
}

void AtomicFile::commit() {
  // On a network file system the write itself succeeds and the full disk shows at sync or close.
  const int sync_error = ::fsync(fd_.get()) != 0 ? errno : 0;
  const int close_error = fd_.close();
  if (const int error = sync_error != 0 ? sync_error : close_error; error != 0) {
    throw RunError("cannot write '{}': {} bytes written, then: {}", partial_.final_path().string(), position_,
                   system_message(error));
  }
  partial_.commit();
}

InputFile::InputFile(fs::path path) : path_(std::move(path)), fd_(open_for_reading(path_)) {
  size_ = status_of(fd_, path_).st_size;
}

void InputFile::read(std::int64_t offset, void* out, std::size_t bytes) const {
  if (offset < 0 || offset > size_ || bytes > static_cast<std::uint64_t>(size_ - offset)) {
    throw RequestError("'{}': bytes {} to {} were asked for, the file has {}", path_.string(), offset,
                       static_cast<std::uint64_t>(offset) + bytes, size_);
  }
  char* to = static_cast<char*>(out);
  std::size_t done = 0;
  while (done < bytes) {
    const std::size_t piece = std::min(bytes - done, kLargestTransfer);
    const ssize_t got = ::pread(fd_.get(), to + done, piece, offset + static_cast<std::int64_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw RequestError("cannot read '{}' at {}: {}", path_.string(), offset, system_message(errno));
    if (got == 0) throw RequestError("'{}' became shorter while it was read: it had {} bytes", path_.string(), size_);
    done += static_cast<std::size_t>(got);
  }
}

void InputFile::will_read(std::int64_t offset, std::int64_t bytes) const noexcept {
  (void)::posix_fadvise(fd_.get(), offset, bytes, POSIX_FADV_WILLNEED);  // a system that cannot loses nothing but time
}

void MappedFile::Unmap::operator()(const std::byte* data) const noexcept {
  ::munmap(const_cast<std::byte*>(data), size);
}

MappedFile::MappedFile(const fs::path& path) {
  const Descriptor fd = open_for_reading(path);
  size_ = static_cast<std::size_t>(status_of(fd, path).st_size);
  if (size_ == 0) return;
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (data == MAP_FAILED)
    throw RequestError("cannot map '{}' ({} bytes): {}", path.string(), size_, system_message(errno));
  data_ = {static_cast<const std::byte*>(data), Unmap(size_)};
}

std::string read_file(const fs::path& path, std::int64_t max_bytes) {
  const Descriptor fd = open_for_reading(path);
  const auto status = status_of(fd, path);
  const auto too_large = [&](std::int64_t size) {
    return RequestError("'{}' has {} bytes, the limit is {}", path.string(), size, max_bytes);
  };
  if (status.st_size > max_bytes) throw too_large(status.st_size);
  std::string content;
  // A pipe or a /proc file has no size beforehand, so the end decides.
  std::size_t room = std::max<std::size_t>(static_cast<std::size_t>(status.st_size) + 1, 4096);
  for (;;) {
    const std::size_t had = content.size();
    content.resize(had + room);
    const ssize_t got = ::read(fd.get(), content.data() + had, room);
    if (got < 0 && errno != EINTR) throw RequestError("cannot read '{}': {}", path.string(), system_message(errno));
    content.resize(had + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    if (static_cast<std::int64_t>(content.size()) > max_bytes)
      throw too_large(static_cast<std::int64_t>(content.size()));
    if (got == 0) return content;
    room = std::max<std::size_t>(4096, content.size() / 2);
  }
}

void write_file(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.append(content);
  file.commit();
}

namespace {

std::string lower_extension(const fs::path& path) {
  std::string out = path.extension().string();
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

template <class Iterator>
std::vector<fs::path> collect(const fs::path& directory, const std::vector<std::string>& extensions) {
  std::error_code error;
  std::vector<fs::path> found;
  for (Iterator it(directory, error); !error && it != Iterator(); it.increment(error)) {
    std::error_code vanished;  // a file removed meanwhile is not ours to complain of
    if (!it->is_regular_file(vanished)) continue;
    const bool wanted = extensions.empty() || std::find(extensions.begin(), extensions.end(),
                                                        lower_extension(it->path())) != extensions.end();
    if (wanted) found.push_back(it->path());
  }
  if (error) throw RequestError("cannot list '{}': {}", directory.string(), error.message());
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

std::vector<fs::path> list_files(const fs::path& directory, const std::vector<std::string>& extensions,
                                 bool recursive) {
  return recursive ? collect<fs::recursive_directory_iterator>(directory, extensions)
                   : collect<fs::directory_iterator>(directory, extensions);
}

void sync_directory(const fs::path& directory) {
  const fs::path path = directory.empty() ? fs::path(".") : directory;
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) throw RunError("cannot open directory '{}': {}", path.string(), system_message(errno));
  // Some network file systems cannot sync a directory and say so.
  if (::fsync(fd.get()) != 0 && errno != EINVAL && errno != ENOTSUP) {
    throw RunError("cannot sync directory '{}': {}", path.string(), system_message(errno));
  }
}

void make_directories(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (!fs::is_directory(directory)) {
    throw RunError("cannot make directory '{}': {}", directory.string(),
                   error ? error.message() : "a file has that name");
  }
}

}  // namespace tessera
