#include "tessera/io/hdf5.hpp"

#include <hdf5.h>

#include <algorithm>
#include <bit>

#include "io/hdf5_error.hpp"
#include "io/hdf5_seal.hpp"
#include "io/hdf5_types.hpp"
#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{1} << 18;
constexpr std::size_t kChunkCacheBytes = std::size_t{8} << 20;
constexpr std::size_t kChunkCacheSlots = 521;  // a prime well above the chunks that fit

template <class T>
constexpr H5Type type_of() {
  if constexpr (std::is_same_v<T, std::uint8_t>) return H5Type::u8;
  if constexpr (std::is_same_v<T, std::uint16_t>) return H5Type::u16;
  if constexpr (std::is_same_v<T, std::int32_t>) return H5Type::i32;
  if constexpr (std::is_same_v<T, std::int64_t>) return H5Type::i64;
  if constexpr (std::is_same_v<T, float>) return H5Type::f32;
  if constexpr (std::is_same_v<T, double>) return H5Type::f64;
}

std::string object_text(const std::filesystem::path& file, const std::string& name) {
  return fmt::format("'{}' object '{}'", file.string(), name);
}

/// Access to a file that may lie on a network file system whose locks do not work: our readers share a finished file.
H5Handle file_access() {
  H5Handle access = h5_own<H5Pclose>(H5Pcreate(H5P_FILE_ACCESS));
#if H5_VERSION_GE(1, 10, 7)
  H5Pset_file_locking(access.get(), false, true);
#endif
  return access;
}

/// What is written has a checksum on every piece of its structure, so that a flipped bit is an error, not a crash.
/// Readable by HDF5 1.10 and newer.
H5Handle writing_access() {
  H5Handle access = file_access();
  H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110);
  return access;
}

/// Creation of a file, group or dataset without its time: equal content gives equal bytes, whenever it is written.
H5Handle timeless(hid_t kind) {
  H5Handle creation = h5_own<H5Pclose>(H5Pcreate(kind));
  H5Pset_obj_track_times(creation.get(), false);
  return creation;
}

H5Handle dataset_access() {
  H5Handle access = h5_own<H5Pclose>(H5Pcreate(H5P_DATASET_ACCESS));
  H5Pset_chunk_cache(access.get(), kChunkCacheSlots, kChunkCacheBytes, H5D_CHUNK_CACHE_W0_DEFAULT);
  return access;
}

/// True when every part of the path exists; H5Lexists itself fails where a parent is missing.
bool path_exists(hid_t file, const std::string& name) {
  for (std::size_t at = name.find_first_not_of('/'); at != std::string::npos;) {
    const std::size_t end = name.find('/', at);
    if (H5Lexists(file, name.substr(0, end).c_str(), H5P_DEFAULT) <= 0) return false;
    if (end == std::string::npos) break;
    at = name.find_first_not_of('/', end);
  }
  return H5Oexists_by_name(file, name.c_str(), H5P_DEFAULT) > 0;
}

}  // namespace

H5Dataset::H5Dataset(H5Handle id, std::string file, std::string name, H5Type type, std::int64_t size)
    : id_(std::move(id)), file_(std::move(file)), name_(std::move(name)), type_(type), size_(size) {}

std::string H5Dataset::where() const {
  return fmt::format("'{}' dataset '{}'", file_, name_);
}

void H5Dataset::append_bytes(const void* values, std::int64_t count, H5Type type) {
  if (type != type_) throw RunError("{}: holds {}, {} was appended", where(), name_of(type_), name_of(type));
  if (count == 0) return;
  const H5Silence silence;
  const hsize_t size = static_cast<hsize_t>(size_ + count);
  const hsize_t begin = static_cast<hsize_t>(size_);
  const hsize_t extent = static_cast<hsize_t>(count);
  if (capacity_ >= 0 && count > capacity_ - size_) {
    throw RunError("{}: {} elements were appended at {}, it was made for {}", where(), count, size_, capacity_);
  }
  bool good = capacity_ >= 0 || H5Dset_extent(id_.get(), &size) >= 0;
  if (good) {
    const H5Handle in_file = h5_own<H5Sclose>(H5Dget_space(id_.get()));
    const H5Handle in_memory = h5_own<H5Sclose>(H5Screate_simple(1, &extent, nullptr));
    good = in_file && in_memory &&
           H5Sselect_hyperslab(in_file.get(), H5S_SELECT_SET, &begin, nullptr, &extent, nullptr) >= 0 &&
           H5Dwrite(id_.get(), h5_memory_type(type), in_memory.get(), in_file.get(), H5P_DEFAULT, values) >= 0;
  }
  if (!good) throw RunError("{}: cannot append {} elements at {}: {}", where(), count, size_, h5_message());
  size_ += count;
}

void H5Dataset::read_bytes(std::int64_t begin, std::int64_t count, void* out, H5Type type) const {
  if (type != type_) throw RequestError("{}: holds {}, not {}", where(), name_of(type_), name_of(type));
  if (begin < 0 || count < 0 || begin > size_ || count > size_ - begin) {
    throw RequestError("{}: elements {} to {} were asked for, it has {}", where(), begin, begin + count, size_);
  }
  if (count == 0) return;
  if (reads_aside()) {
    const auto width = h5_size_of(type);
    bytes_->read(place_ + begin * width, out, static_cast<std::size_t>(count * width));
    return;
  }
  const H5Silence silence;
  const hsize_t first = static_cast<hsize_t>(begin);
  const hsize_t extent = static_cast<hsize_t>(count);
  const H5Handle in_file = h5_own<H5Sclose>(H5Dget_space(id_.get()));
  const H5Handle in_memory = h5_own<H5Sclose>(H5Screate_simple(1, &extent, nullptr));
  if (!in_file || !in_memory ||
      H5Sselect_hyperslab(in_file.get(), H5S_SELECT_SET, &first, nullptr, &extent, nullptr) < 0 ||
      H5Dread(id_.get(), h5_memory_type(type), in_memory.get(), in_file.get(), H5P_DEFAULT, out) < 0) {
    throw RequestError("{}: cannot read elements {} to {}: {}", where(), begin, begin + count, h5_message());
  }
}

template <class T>
void H5Dataset::append(std::span<const T> values) {
  append_bytes(values.data(), static_cast<std::int64_t>(values.size()), type_of<T>());
}

template <class T>
void H5Dataset::read(std::int64_t begin, std::int64_t count, T* out) const {
  read_bytes(begin, count, out, type_of<T>());
}

template <class T>
std::vector<T> H5Dataset::read_all() const {
  std::vector<T> out(static_cast<std::size_t>(size_));
  read<T>(0, size_, out.data());
  return out;
}

#define TESSERA_H5_INSTANTIATE(T)                                         \
  template void H5Dataset::append<T>(std::span<const T>);                 \
  template void H5Dataset::read<T>(std::int64_t, std::int64_t, T*) const; \
  template std::vector<T> H5Dataset::read_all<T>() const;
TESSERA_H5_INSTANTIATE(std::uint8_t)
TESSERA_H5_INSTANTIATE(std::uint16_t)
TESSERA_H5_INSTANTIATE(std::int32_t)
TESSERA_H5_INSTANTIATE(std::int64_t)
TESSERA_H5_INSTANTIATE(float)
TESSERA_H5_INSTANTIATE(double)
#undef TESSERA_H5_INSTANTIATE

H5Attributes H5Dataset::attributes() const {
  const H5Silence silence;
  return H5Attributes(h5_own<H5Oclose>(H5Oopen(id_.get(), ".", H5P_DEFAULT)), where());
}

H5File::H5File(std::filesystem::path path, H5Handle id, std::optional<PartialPath> partial)
    : path_(std::move(path)), partial_(std::move(partial)), id_(std::move(id)) {}

/// Values of the type as it lies in memory, in one run: then they need no HDF5 to be read.
void H5Dataset::look_for_place(std::shared_ptr<const InputFile> bytes) {
  static_assert(std::endian::native == std::endian::little, "files are little-endian");
  const H5Handle creation = h5_own<H5Pclose>(H5Dget_create_plist(id_.get()));
  if (size_ == 0 || H5Pget_layout(creation.get()) != H5D_CONTIGUOUS) return;
  if (H5Pget_external_count(creation.get()) != 0) return;
  const H5Handle stored = h5_own<H5Tclose>(H5Dget_type(id_.get()));
  if (H5Tequal(stored.get(), h5_memory_type(type_)) <= 0) return;
  const haddr_t place = H5Dget_offset(id_.get());
  const auto extent = size_ * h5_size_of(type_);
  if (place == HADDR_UNDEF || static_cast<std::int64_t>(place) > bytes->size() - extent) return;
  place_ = static_cast<std::int64_t>(place);
  bytes_ = std::move(bytes);
}

H5File H5File::create(const std::filesystem::path& path, bool sealed) {
  const H5Silence silence;
  PartialPath partial(path);
  const H5Handle access = writing_access();
  const H5Handle creation = timeless(H5P_FILE_CREATE);
  if (sealed) H5Pset_userblock(creation.get(), kSealBytes);
  H5Handle id = h5_own<H5Fclose>(H5Fcreate(partial.path().c_str(), H5F_ACC_EXCL, creation.get(), access.get()));
  if (!id) throw RunError("cannot create '{}': {}", path.string(), h5_message());
  H5File file(path, std::move(id), std::move(partial));
  file.sealed_ = sealed;
  return file;
}

H5File H5File::open(const std::filesystem::path& path) {
  // Says "no such file" and "is a directory" in the system's plain words.
  auto bytes = std::make_shared<const InputFile>(path);
  const bool sealed = check_seal(*bytes);
  const H5Silence silence;
  const H5Handle access = file_access();
  H5Handle id = h5_own<H5Fclose>(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()));
  if (!id) throw RequestError("cannot open '{}' as HDF5 ({} bytes): {}", path.string(), bytes->size(), h5_message());
  const H5Handle creation = h5_own<H5Pclose>(H5Fget_create_plist(id.get()));
  hsize_t block = 0;
  if (H5Pget_userblock(creation.get(), &block) >= 0 && block == kSealBytes && !sealed) {
    throw RequestError("'{}': its first bytes are not those that were written", path.string());
  }
  H5File file(path, std::move(id), std::nullopt);
  file.bytes_ = std::move(bytes);
  return file;
}

namespace {

/// Creation of a dataset laid out so.
H5Handle creation_of(const H5Layout& layout, H5Type type) {
  H5Handle creation = timeless(H5P_DATASET_CREATE);
  if (layout.contiguous >= 0) {
    H5Pset_layout(creation.get(), H5D_CONTIGUOUS);
    H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER);
    return creation;
  }
  const hsize_t chunk = static_cast<hsize_t>(layout.chunk > 0 ? layout.chunk : kChunkBytes / h5_size_of(type));
  H5Pset_chunk(creation.get(), 1, &chunk);
  if (layout.deflate > 0) {
    H5Pset_shuffle(creation.get());
    H5Pset_deflate(creation.get(), static_cast<unsigned>(layout.deflate));
  }
  return creation;
}

H5Handle space_of(const H5Layout& layout) {
  const hsize_t size = static_cast<hsize_t>(std::max<std::int64_t>(0, layout.contiguous));
  const hsize_t most = layout.contiguous >= 0 ? size : H5S_UNLIMITED;
  return h5_own<H5Sclose>(H5Screate_simple(1, &size, &most));
}

}  // namespace

H5Dataset H5File::create_dataset(const std::string& name, H5Type type, H5Layout layout) {
  const H5Silence silence;
  const H5Handle space = space_of(layout);
  const H5Handle creation = creation_of(layout, type);
  if (const auto parent = name.rfind('/'); parent != std::string::npos && parent > 0)
    create_group(name.substr(0, parent));
  const H5Handle access = dataset_access();
  H5Handle id = h5_own<H5Dclose>(
      H5Dcreate2(id_.get(), name.c_str(), h5_file_type(type), space.get(), H5P_DEFAULT, creation.get(), access.get()));
  if (!id) throw RunError("{}: cannot create dataset: {}", object_text(path_, name), h5_message());
  H5Dataset dataset(std::move(id), path_.string(), name, type, 0);
  if (layout.contiguous >= 0) {
    dataset.capacity_ = layout.contiguous;
    const haddr_t place = H5Dget_offset(dataset.id_.get());
    const auto begin = static_cast<std::int64_t>(place);
    if (place != HADDR_UNDEF && layout.contiguous > 0)
      values_.emplace_back(begin, begin + layout.contiguous * h5_size_of(type));
  }
  return dataset;
}

void H5File::create_group(const std::string& name) {
  const H5Silence silence;
  for (std::size_t end = 0; end != std::string::npos;) {
    end = name.find('/', end + 1);
    const auto part = name.substr(0, end);
    if (path_exists(id_.get(), part)) continue;
    const H5Handle creation = timeless(H5P_GROUP_CREATE);
    const H5Handle id = h5_own<H5Gclose>(H5Gcreate2(id_.get(), part.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT));
    if (!id) throw RunError("{}: cannot create group: {}", object_text(path_, part), h5_message());
  }
}

bool H5File::has(const std::string& name) const {
  const H5Silence silence;
  return path_exists(id_.get(), name);
}

H5Dataset H5File::dataset(const std::string& name, std::optional<H5Type> type) const {
  const H5Silence silence;
  const std::string where = fmt::format("'{}' dataset '{}'", path_.string(), name);
  if (!path_exists(id_.get(), name)) throw RequestError("{}: there is none", where);
  const H5Handle access = dataset_access();
  H5Handle id = h5_own<H5Dclose>(H5Dopen2(id_.get(), name.c_str(), access.get()));
  if (!id) throw RequestError("{}: cannot open: {}", where, h5_message());
  const H5Handle space = h5_own<H5Sclose>(H5Dget_space(id.get()));
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if (rank != 1) throw RequestError("{}: has {} dimensions, 1 is expected", where, rank);
  hsize_t size = 0;
  H5Sget_simple_extent_dims(space.get(), &size, nullptr);
  const H5Handle stored = h5_own<H5Tclose>(H5Dget_type(id.get()));
  const auto kind = h5_classify(stored.get());
  if (!kind) throw RequestError("{}: its element type is none of u8, u16, i32, i64, f32, f64", where);
  if (type && *kind != *type) throw RequestError("{}: holds {}, {} is expected", where, name_of(*kind), name_of(*type));
  H5Dataset found(std::move(id), path_.string(), name, *kind, static_cast<std::int64_t>(size));
  if (bytes_) found.look_for_place(bytes_);
  return found;
}

bool H5File::is_group(const std::string& name) const {
  const H5Silence silence;
  const H5Handle id = h5_own<H5Oclose>(H5Oopen(id_.get(), name.c_str(), H5P_DEFAULT));
  return id && H5Iget_type(id.get()) == H5I_GROUP;
}

std::vector<std::string> H5File::names(const std::string& group) const {
  const H5Silence silence;
  const H5Handle id = h5_own<H5Gclose>(H5Gopen2(id_.get(), group.c_str(), H5P_DEFAULT));
  if (!id) throw RequestError("{}: is not a group: {}", object_text(path_, group), h5_message());
  std::vector<std::string> out;
  const auto note = [](hid_t, const char* name, const H5L_info_t*, void* list) -> herr_t {
    static_cast<std::vector<std::string>*>(list)->emplace_back(name);
    return 0;
  };
  hsize_t index = 0;
  if (H5Literate(id.get(), H5_INDEX_NAME, H5_ITER_INC, &index, note, &out) < 0) {
    throw RequestError("{}: cannot list: {}", object_text(path_, group), h5_message());
  }
  std::sort(out.begin(), out.end());
  return out;
}

H5Attributes H5File::attributes(const std::string& object) const {
  const H5Silence silence;
  H5Handle id = h5_own<H5Oclose>(H5Oopen(id_.get(), object.c_str(), H5P_DEFAULT));
  if (!id) throw RequestError("{}: there is none", object_text(path_, object));
  return H5Attributes(std::move(id), object_text(path_, object));
}

void H5File::commit() {
  if (!partial_) throw RunError("'{}': commit of a file that is not being written", path_.string());
  const H5Silence silence;
  constexpr unsigned kObjects = H5F_OBJ_DATASET | H5F_OBJ_GROUP | H5F_OBJ_DATATYPE | H5F_OBJ_ATTR | H5F_OBJ_LOCAL;
  if (const auto in_use = H5Fget_obj_count(id_.get(), kObjects); in_use > 0) {
    throw RunError("'{}': {} objects are still in use at commit", path_.string(), in_use);
  }
  if (H5Fflush(id_.get(), H5F_SCOPE_LOCAL) < 0) throw RunError("cannot write '{}': {}", path_.string(), h5_message());
  if (!id_.close()) throw RunError("cannot write '{}': {}", path_.string(), h5_message());
  if (sealed_) seal(partial_->path(), values_);
  partial_->commit();
  partial_.reset();
}

}  // namespace tessera::io
