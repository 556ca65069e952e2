#pragma once
/// Rows of different lengths in HDF5: group NAME holds `values` (all rows one after another) and `offsets`, i64 [n+1],
/// so that row i is values[offsets[i] .. offsets[i+1]). Texts and encoded images are rows of u8. No variable-length
/// types: any reader takes a range of rows with two reads.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/io/hdf5.hpp"

namespace tessera::io {

/// T: std::uint8_t, std::uint16_t, std::int32_t, std::int64_t, float. Rows are collected and written a chunk at a time.
template <class T>
class RaggedWriter {
 public:
  RaggedWriter(H5File& file, const std::string& name, H5Layout layout = {});
  void append(std::span<const T> row);
  std::int64_t rows() const noexcept { return rows_; }
  /// Writes what is still collected; without it the last rows are missing. Nothing may be appended afterwards.
  void finish();

 private:
  void flush();
  H5Dataset values_;
  H5Dataset offsets_;
  std::vector<T> pending_;
  std::vector<std::int64_t> pending_ends_;
  std::int64_t end_ = 0;
  std::int64_t rows_ = 0;
};

template <class T>
class RaggedReader {
 public:
  /// Throws RequestError when a dataset is missing, of another type, or the last offset is not the number of values.
  RaggedReader(const H5File& file, const std::string& name);
  std::int64_t rows() const noexcept { return offsets_.size() - 1; }
  std::int64_t total() const noexcept { return values_.size(); }  ///< elements of all rows
  std::vector<T> row(std::int64_t index) const;
  /// Rows [begin, begin + count), with two reads.
  std::vector<std::vector<T>> rows(std::int64_t begin, std::int64_t count) const;
  /// Lengths of rows [begin, begin + count), without reading them.
  std::vector<std::int64_t> lengths(std::int64_t begin, std::int64_t count) const;

 private:
  std::vector<std::int64_t> offsets(std::int64_t begin, std::int64_t count) const;
  std::string where_;
  H5Dataset values_;
  H5Dataset offsets_;
};

inline std::span<const std::uint8_t> as_row(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}
inline std::string as_text(std::span<const std::uint8_t> row) {
  return {row.begin(), row.end()};
}

}  // namespace tessera::io
