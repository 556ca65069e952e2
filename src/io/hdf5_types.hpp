#pragma once
// Our element types as HDF5's, and what a stored type is in ours.
#include <hdf5.h>

#include <optional>

#include "tessera/io/hdf5.hpp"

namespace tessera::io {

hid_t h5_memory_type(H5Type type) noexcept;
hid_t h5_file_type(H5Type type) noexcept;  ///< little-endian
std::int64_t h5_size_of(H5Type type) noexcept;
/// Nothing for a type no dataset of ours has (strings, compounds, other sizes).
std::optional<H5Type> h5_classify(hid_t stored) noexcept;

}  // namespace tessera::io
