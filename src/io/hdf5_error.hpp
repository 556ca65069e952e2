#pragma once
// HDF5's error stack as text, and its automatic printing off while we call it.
#include <hdf5.h>

#include <string>

#include "tessera/io/hdf5.hpp"

namespace tessera::io {

/// Printing is a setting per thread; it is put back at the end, for other users of HDF5 in the process.
class H5Silence {
 public:
  H5Silence() noexcept;
  ~H5Silence();
  H5Silence(const H5Silence&) = delete;
  H5Silence& operator=(const H5Silence&) = delete;

 private:
  H5E_auto2_t function_ = nullptr;
  void* data_ = nullptr;
};

/// What HDF5 noted about the last failure on this thread, innermost first.
std::string h5_message();

template <herr_t (*Close)(hid_t)>
H5Handle h5_own(hid_t id) noexcept {
  return H5Handle(id, [](std::int64_t value) -> int { return Close(value); });
}

}  // namespace tessera::io
