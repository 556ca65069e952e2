#include "io/hdf5_types.hpp"

namespace tessera::io {

std::string_view name_of(H5Type type) noexcept {
  switch (type) {
    case H5Type::u8:
      return "u8";
    case H5Type::u16:
      return "u16";
    case H5Type::i32:
      return "i32";
    case H5Type::i64:
      return "i64";
    case H5Type::f32:
      return "f32";
    case H5Type::f64:
      return "f64";
  }
  return "?";
}

hid_t h5_memory_type(H5Type type) noexcept {
  switch (type) {
    case H5Type::u8:
      return H5T_NATIVE_UINT8;
    case H5Type::u16:
      return H5T_NATIVE_UINT16;
    case H5Type::i32:
      return H5T_NATIVE_INT32;
    case H5Type::i64:
      return H5T_NATIVE_INT64;
    case H5Type::f32:
      return H5T_NATIVE_FLOAT;
    case H5Type::f64:
      return H5T_NATIVE_DOUBLE;
  }
  return -1;
}

hid_t h5_file_type(H5Type type) noexcept {
  switch (type) {
    case H5Type::u8:
      return H5T_STD_U8LE;
    case H5Type::u16:
      return H5T_STD_U16LE;
    case H5Type::i32:
      return H5T_STD_I32LE;
    case H5Type::i64:
      return H5T_STD_I64LE;
    case H5Type::f32:
      return H5T_IEEE_F32LE;
    case H5Type::f64:
      return H5T_IEEE_F64LE;
  }
  return -1;
}

std::int64_t h5_size_of(H5Type type) noexcept {
  switch (type) {
    case H5Type::u8:
      return 1;
    case H5Type::u16:
      return 2;
    case H5Type::i32:
    case H5Type::f32:
      return 4;
    case H5Type::i64:
    case H5Type::f64:
      return 8;
  }
  return 1;
}

std::optional<H5Type> h5_classify(hid_t stored) noexcept {
  const std::size_t size = H5Tget_size(stored);
  switch (H5Tget_class(stored)) {
    case H5T_INTEGER:
      if (H5Tget_sign(stored) == H5T_SGN_NONE) {
        if (size == 1) return H5Type::u8;
        if (size == 2) return H5Type::u16;
      } else {
        if (size == 4) return H5Type::i32;
        if (size == 8) return H5Type::i64;
      }
      return std::nullopt;
    case H5T_FLOAT:
      if (size == 4) return H5Type::f32;
      if (size == 8) return H5Type::f64;
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

}  // namespace tessera::io
