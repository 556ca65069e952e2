#include "io/zip_archive.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "tessera/core/error.hpp"

// Field offsets are those of PKWARE's APPNOTE.TXT, sections 4.3.7 (local header), 4.3.12 (central directory),
// 4.3.14 to 4.3.16 (ends) and 4.5.3 (zip64 extra field).
namespace tessera::io {
namespace {

constexpr std::uint32_t kLocalMagic = 0x04034b50;
constexpr std::uint32_t kCentralMagic = 0x02014b50;
constexpr std::uint32_t kEndMagic = 0x06054b50;
constexpr std::uint32_t kEnd64Magic = 0x06064b50;
constexpr std::uint32_t kLocator64Magic = 0x07064b50;
constexpr std::int64_t kEndSize = 22;
constexpr std::int64_t kLocatorSize = 20;
constexpr std::int64_t kEnd64Size = 56;
constexpr std::int64_t kLocalSize = 30;
constexpr std::size_t kCentralSize = 46;
constexpr std::int64_t kLongestComment = 65535;
constexpr std::int64_t kMostDirectoryBytes = std::int64_t{1} << 28;

std::uint64_t field(const char* at, int bytes) {
  std::uint64_t value = 0;
  for (int i = bytes; i-- > 0;) value = (value << 8) | static_cast<unsigned char>(at[i]);
  return value;
}

class DirectoryReader {
 public:
  explicit DirectoryReader(const InputFile& file) : file_(file) {}

  std::map<std::string, ZipEntry> read() {
    find_directory();
    const std::string directory = bytes(directory_offset_, directory_size_);
    std::map<std::string, ZipEntry> entries;
    std::size_t at = 0;
    while (at < directory.size()) {
      auto [name, entry] = central_entry(directory, at);
      const auto [it, fresh] = entries.emplace(std::move(name), entry);
      if (!fresh) fail(fmt::format("two entries named '{}'", it->first));
    }
    if (entries.size() != count_) fail(fmt::format("{} entries where {} were promised", entries.size(), count_));
    return entries;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw RequestError("'{}': zip archive: {}", file_.path().string(), what);
  }

  std::string bytes(std::int64_t offset, std::int64_t size) const {
    if (offset < 0 || size < 0 || offset > file_.size() || size > file_.size() - offset) {
      fail(fmt::format("{} bytes at {} in a file of {}; is it cut short?", size, offset, file_.size()));
    }
    std::string out(static_cast<std::size_t>(size), '\0');
    file_.read(offset, out.data(), out.size());
    return out;
  }

  std::int64_t checked(std::uint64_t value) const {
    if (value > static_cast<std::uint64_t>(file_.size())) fail(fmt::format("a length or offset of {}", value));
    return static_cast<std::int64_t>(value);
  }

  void find_directory() {
    const std::int64_t tail_size = std::min(file_.size(), kEndSize + kLongestComment);
    const std::string tail = bytes(file_.size() - tail_size, tail_size);
    std::int64_t at = tail_size - kEndSize;
    while (at >= 0 && field(tail.data() + at, 4) != kEndMagic) --at;
    if (at < 0) fail("it has no end record; is it cut short?");
    const char* end = tail.data() + at;
    std::int64_t limit = file_.size() - tail_size + at;
    std::uint64_t count = field(end + 10, 2);
    std::uint64_t size = field(end + 12, 4);
    std::uint64_t offset = field(end + 16, 4);
    if (field(end + 4, 2) != 0 && field(end + 4, 2) != 0xffff) fail("it is split over several disks");
    if (limit >= kLocatorSize) {
      const std::string locator = bytes(limit - kLocatorSize, kLocatorSize);
      if (field(locator.data(), 4) == kLocator64Magic) {
        limit = checked(field(locator.data() + 8, 8));
        const std::string end64 = bytes(limit, kEnd64Size);
        if (field(end64.data(), 4) != kEnd64Magic) fail("its zip64 end record is not where it should be");
        count = field(end64.data() + 32, 8);
        size = field(end64.data() + 40, 8);
        offset = field(end64.data() + 48, 8);
      }
    }
    directory_offset_ = checked(offset);
    directory_size_ = checked(size);
    count_ = count;
    if (directory_size_ > kMostDirectoryBytes) fail(fmt::format("a directory of {} bytes", directory_size_));
    if (directory_offset_ + directory_size_ > limit) fail("its directory overlaps its end");
  }

  std::pair<std::string, ZipEntry> central_entry(const std::string& directory, std::size_t& at) const {
    if (directory.size() - at < kCentralSize) fail("its directory ends early");
    const char* header = directory.data() + at;
    if (field(header, 4) != kCentralMagic) fail("its directory holds something else");
    const std::size_t name_size = field(header + 28, 2);
    const std::size_t extra_size = field(header + 30, 2);
    const std::size_t comment_size = field(header + 32, 2);
    if (directory.size() - at - kCentralSize < name_size + extra_size + comment_size) fail("its directory ends early");
    std::string name(header + kCentralSize, name_size);
    if ((field(header + 8, 2) & 1) != 0) fail(fmt::format("entry '{}' is encrypted", name));
    if (field(header + 10, 2) != 0) fail(fmt::format("entry '{}' is compressed; torch.save stores", name));
    std::uint64_t packed = field(header + 20, 4);
    std::uint64_t size = field(header + 24, 4);
    std::uint64_t local = field(header + 42, 4);
    widen(header + kCentralSize + name_size, extra_size, size, packed, local);
    if (packed != size) fail(fmt::format("entry '{}' has two sizes, {} and {}", name, size, packed));
    at += kCentralSize + name_size + extra_size + comment_size;
    const ZipEntry entry{data_offset(name, checked(local)), checked(size)};
    if (entry.offset > directory_offset_ || entry.size > directory_offset_ - entry.offset) {
      fail(fmt::format("entry '{}' has {} bytes at {}, beyond the data", name, entry.size, entry.offset));
    }
    return {std::move(name), entry};
  }

  /// Fields that hold 0xffffffff stand in the zip64 extra field, in this order.
  void widen(const char* extra, std::size_t extra_size, std::uint64_t& size, std::uint64_t& packed,
             std::uint64_t& local) const {
    for (std::size_t at = 0; at + 4 <= extra_size;) {
      const std::uint64_t id = field(extra + at, 2);
      std::size_t left = field(extra + at + 2, 2);
      at += 4;
      if (left > extra_size - at) fail("an extra field ends early");
      const char* from = extra + at;
      at += left;
      if (id != 1) continue;
      for (std::uint64_t* value : {&size, &packed, &local}) {
        if (*value != 0xffffffff) continue;
        if (left < 8) fail("a zip64 field ends early");
        *value = field(from, 8);
        from += 8;
        left -= 8;
      }
    }
  }

  std::int64_t data_offset(const std::string& name, std::int64_t local) const {
    const std::string header = bytes(local, kLocalSize);
    if (field(header.data(), 4) != kLocalMagic) fail(fmt::format("entry '{}' is not at its offset {}", name, local));
    return local + kLocalSize + static_cast<std::int64_t>(field(header.data() + 26, 2) + field(header.data() + 28, 2));
  }

  const InputFile& file_;
  std::int64_t directory_offset_ = 0;
  std::int64_t directory_size_ = 0;
  std::uint64_t count_ = 0;
};

}  // namespace

std::map<std::string, ZipEntry> read_zip_directory(const InputFile& file) {
  return DirectoryReader(file).read();
}

}  // namespace tessera::io
