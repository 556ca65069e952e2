#include <hdf5.h>

#include <algorithm>

#include "io/hdf5_error.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/hdf5.hpp"

namespace tessera::io {
namespace {

/// No text of ours is longer; what claims to be is not allocated.
constexpr std::size_t kLongestText = std::size_t{1} << 24;

void write_scalar(hid_t object, const std::string& where, const std::string& name, hid_t stored, hid_t memory,
                  const void* value) {
  const H5Silence silence;
  if (H5Aexists(object, name.c_str()) > 0) H5Adelete(object, name.c_str());
  const H5Handle space = h5_own<H5Sclose>(H5Screate(H5S_SCALAR));
  const H5Handle id = h5_own<H5Aclose>(H5Acreate2(object, name.c_str(), stored, space.get(), H5P_DEFAULT, H5P_DEFAULT));
  if (!id || H5Awrite(id.get(), memory, value) < 0) {
    throw RunError("{}: cannot write attribute '{}': {}", where, name, h5_message());
  }
}

H5Handle open_scalar(hid_t object, const std::string& where, const std::string& name) {
  if (H5Aexists(object, name.c_str()) <= 0) throw RequestError("{}: has no attribute '{}'", where, name);
  H5Handle id = h5_own<H5Aclose>(H5Aopen(object, name.c_str(), H5P_DEFAULT));
  if (!id) throw RequestError("{}: cannot open attribute '{}': {}", where, name, h5_message());
  const H5Handle space = h5_own<H5Sclose>(H5Aget_space(id.get()));
  if (H5Sget_simple_extent_npoints(space.get()) != 1) {
    throw RequestError("{}: attribute '{}' does not hold a single value", where, name);
  }
  return id;
}

template <class T>
T read_number(hid_t object, const std::string& where, const std::string& name, hid_t memory, bool whole) {
  const H5Silence silence;
  const H5Handle id = open_scalar(object, where, name);
  const H5Handle type = h5_own<H5Tclose>(H5Aget_type(id.get()));
  const H5T_class_t kind = H5Tget_class(type.get());
  if (kind != H5T_INTEGER && (whole || kind != H5T_FLOAT)) {
    throw RequestError("{}: attribute '{}' is not a {}number", where, name, whole ? "whole " : "");
  }
  T value{};
  if (H5Aread(id.get(), memory, &value) < 0) {
    throw RequestError("{}: cannot read attribute '{}': {}", where, name, h5_message());
  }
  return value;
}

H5Handle text_type(std::size_t size) {
  H5Handle type = h5_own<H5Tclose>(H5Tcopy(H5T_C_S1));
  H5Tset_size(type.get(), size);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  return type;
}

struct FreeByHdf5 {
  void operator()(char* text) const noexcept { H5free_memory(text); }
};

}  // namespace

void H5Attributes::set(const std::string& name, std::string_view value) {
  if (value.find('\0') != std::string_view::npos) {
    throw RunError("{}: attribute '{}' cannot hold a text with a NUL byte", where_, name);
  }
  // Variable length, so that h5py gives str and no object header limits the text.
  const H5Handle type = text_type(H5T_VARIABLE);
  const std::string text(value);
  const char* pointer = text.c_str();
  write_scalar(object_.get(), where_, name, type.get(), type.get(), &pointer);
}

void H5Attributes::set(const std::string& name, std::int64_t value) {
  write_scalar(object_.get(), where_, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

void H5Attributes::set(const std::string& name, double value) {
  write_scalar(object_.get(), where_, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

bool H5Attributes::has(const std::string& name) const {
  const H5Silence silence;
  return H5Aexists(object_.get(), name.c_str()) > 0;
}

std::string H5Attributes::text(const std::string& name) const {
  const H5Silence silence;
  const H5Handle id = open_scalar(object_.get(), where_, name);
  const H5Handle stored = h5_own<H5Tclose>(H5Aget_type(id.get()));
  if (H5Tget_class(stored.get()) != H5T_STRING) throw RequestError("{}: attribute '{}' is not a text", where_, name);
  if (H5Tis_variable_str(stored.get()) > 0) {
    const H5Handle memory = text_type(H5T_VARIABLE);
    H5Tset_cset(memory.get(), H5Tget_cset(stored.get()));
    char* raw = nullptr;
    const herr_t status = H5Aread(id.get(), memory.get(), &raw);
    const std::unique_ptr<char, FreeByHdf5> owned(raw);
    if (status < 0) throw RequestError("{}: cannot read attribute '{}': {}", where_, name, h5_message());
    return raw != nullptr ? std::string(raw) : std::string();
  }
  const std::size_t size = H5Tget_size(stored.get());
  if (size > kLongestText) throw RequestError("{}: attribute '{}' claims {} bytes", where_, name, size);
  std::string value(size, '\0');
  if (H5Aread(id.get(), stored.get(), value.data()) < 0) {
    throw RequestError("{}: cannot read attribute '{}': {}", where_, name, h5_message());
  }
  value.resize(std::min(size, value.find('\0')));
  return value;
}

std::int64_t H5Attributes::integer(const std::string& name) const {
  return read_number<std::int64_t>(object_.get(), where_, name, H5T_NATIVE_INT64, true);
}

double H5Attributes::real(const std::string& name) const {
  return read_number<double>(object_.get(), where_, name, H5T_NATIVE_DOUBLE, false);
}

std::vector<std::string> H5Attributes::names() const {
  const H5Silence silence;
  std::vector<std::string> out;
  const auto note = [](hid_t, const char* name, const H5A_info_t*, void* list) -> herr_t {
    static_cast<std::vector<std::string>*>(list)->emplace_back(name);
    return 0;
  };
  hsize_t index = 0;
  if (H5Aiterate2(object_.get(), H5_INDEX_NAME, H5_ITER_INC, &index, note, &out) < 0) {
    throw RequestError("{}: cannot list attributes: {}", where_, h5_message());
  }
  return out;
}

}  // namespace tessera::io
