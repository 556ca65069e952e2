#pragma once
/// HDF5 files by owners: a file, its one-dimensional datasets, its attributes. Written files appear whole or not at
/// all.
///
/// Errors name file and object and carry HDF5's own words; what is wrong with a file that is read is a RequestError,
/// what fails while writing a RunError. HDF5's automatic printing is off. h5py opens what is written here.
///
/// A sealed file has a checksum over everything but its datasets' values, in front of HDF5's own first byte (a "user
/// block", which HDF5 and h5py skip); it is compared before HDF5 parses anything, since HDF5 keeps texts of attributes
/// without a checksum and can be led astray by one flipped bit there.
/// Threads: different threads may use different objects (the distributions build HDF5 thread-safe); one object belongs
/// to one thread at a time, but for a dataset that reads_aside(). Not collective: each rank opens the file for itself.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/core/file.hpp"

namespace tessera::io {

/// Element types; stored little-endian.
enum class H5Type : std::uint8_t { u8, u16, i32, i64, f32, f64 };
std::string_view name_of(H5Type type) noexcept;

/// How a new dataset is laid out.
struct H5Layout {
  std::int64_t chunk = 0;  ///< elements per chunk; 0: as many as fit 256 KiB
  int deflate = 0;         ///< 0: as is; 1..9: shuffled and deflated
  /// As many elements as the dataset will have, in one run of bytes, which reading takes straight from the file; it
  /// must be filled before commit(). -1: it grows by chunks.
  std::int64_t contiguous = -1;
};

/// Owns one HDF5 identifier and closes it as its kind asks.
class H5Handle {
 public:
  using Closer = int (*)(std::int64_t);
  H5Handle() = default;
  H5Handle(std::int64_t id, Closer closer) noexcept : id_(id), closer_(closer) {}
  H5Handle(H5Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), closer_(other.closer_) {}
  H5Handle& operator=(H5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(closer_, other.closer_);
    return *this;
  }
  ~H5Handle();
  std::int64_t get() const noexcept { return id_; }
  explicit operator bool() const noexcept { return id_ >= 0; }
  [[nodiscard]] bool close() noexcept;  ///< false when HDF5 could not write what was left

 private:
  std::int64_t id_ = -1;
  Closer closer_ = nullptr;
};

/// Named values on a file's root, a group or a dataset.
class H5Attributes {
 public:
  void set(const std::string& name, std::string_view value);  ///< UTF-8 without NUL
  void set(const std::string& name, std::int64_t value);
  void set(const std::string& name, double value);
  bool has(const std::string& name) const;
  /// Throws RequestError when it is missing or of another kind.
  std::string text(const std::string& name) const;
  std::int64_t integer(const std::string& name) const;
  double real(const std::string& name) const;
  std::vector<std::string> names() const;

 private:
  friend class H5File;
  friend class H5Dataset;
  H5Attributes(H5Handle object, std::string where) : object_(std::move(object)), where_(std::move(where)) {}
  H5Handle object_;
  std::string where_;  ///< "'file.h5' object '/x'"
};

/// A one-dimensional dataset. T of append and read is the stored type exactly.
class H5Dataset {
 public:
  const std::string& name() const noexcept { return name_; }
  H5Type type() const noexcept { return type_; }
  std::int64_t size() const noexcept { return size_; }  ///< elements

  /// T: std::uint8_t, std::uint16_t, std::int32_t, std::int64_t, float, double.
  template <class T>
  void append(std::span<const T> values);
  /// Elements [begin, begin + count).
  template <class T>
  void read(std::int64_t begin, std::int64_t count, T* out) const;
  template <class T>
  std::vector<T> read_all() const;
  /// Its values are one run of the file's bytes, read without HDF5: by several threads at once, and at the disk's
  /// speed.
  bool reads_aside() const noexcept { return place_ >= 0; }
  H5Attributes attributes() const;

 private:
  friend class H5File;
  H5Dataset(H5Handle id, std::string file, std::string name, H5Type type, std::int64_t size);
  void look_for_place(std::shared_ptr<const InputFile> bytes);
  void append_bytes(const void* values, std::int64_t count, H5Type type);
  void read_bytes(std::int64_t begin, std::int64_t count, void* out, H5Type type) const;
  std::string where() const;
  H5Handle id_;
  std::string file_;
  std::string name_;
  H5Type type_;
  std::int64_t size_;
  std::int64_t capacity_ = -1;              ///< of a contiguous dataset that is being written
  std::shared_ptr<const InputFile> bytes_;  ///< the file, where place_ is known
  std::int64_t place_ = -1;                 ///< of the first element in the file
};

class H5File {
 public:
  /// A new file. It appears under `path` at commit(); without it nothing is left.
  static H5File create(const std::filesystem::path& path, bool sealed = false);
  /// For reading. Throws RequestError when it is missing, not HDF5, cut short, or not as it was sealed.
  static H5File open(const std::filesystem::path& path);

  const std::filesystem::path& path() const noexcept { return path_; }
  /// Objects are named by path ("images/bytes"); missing groups are made.
  H5Dataset create_dataset(const std::string& name, H5Type type, H5Layout layout = {});
  void create_group(const std::string& name);
  bool has(const std::string& name) const;
  bool is_group(const std::string& name) const;
  /// Throws RequestError unless it exists, is one-dimensional and of a type above (of `type`, where given).
  H5Dataset dataset(const std::string& name, std::optional<H5Type> type = {}) const;
  std::vector<std::string> names(const std::string& group = "/") const;  ///< direct members, sorted
  H5Attributes attributes(const std::string& object = "/") const;

  /// Ends writing: all datasets of this file must be gone. Throws RunError (a full disk shows here at the latest).
  void commit();

 private:
  H5File(std::filesystem::path path, H5Handle id, std::optional<PartialPath> partial);
  std::filesystem::path path_;
  std::shared_ptr<const InputFile> bytes_;                     ///< of a file that is read
  bool sealed_ = false;                                        ///< of one that is written
  std::vector<std::pair<std::int64_t, std::int64_t>> values_;  ///< where its contiguous datasets begin and end
  std::optional<PartialPath> partial_;                         // before id_: the file is closed before it is removed
  H5Handle id_;
};

}  // namespace tessera::io
