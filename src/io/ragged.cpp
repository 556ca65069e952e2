#include "tessera/io/ragged.hpp"

#include <type_traits>

#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

constexpr std::size_t kPendingBytes = std::size_t{1} << 20;
constexpr std::size_t kPendingRows = std::size_t{1} << 15;

template <class T>
constexpr H5Type type_of() {
  if constexpr (std::is_same_v<T, std::uint8_t>) return H5Type::u8;
  if constexpr (std::is_same_v<T, std::uint16_t>) return H5Type::u16;
  if constexpr (std::is_same_v<T, std::int32_t>) return H5Type::i32;
  if constexpr (std::is_same_v<T, std::int64_t>) return H5Type::i64;
  if constexpr (std::is_same_v<T, float>) return H5Type::f32;
}

}  // namespace

template <class T>
RaggedWriter<T>::RaggedWriter(H5File& file, const std::string& name, H5Layout layout)
    : values_(file.create_dataset(name + "/values", type_of<T>(), layout)),
      offsets_(file.create_dataset(name + "/offsets", H5Type::i64, {.chunk = 0, .deflate = layout.deflate})),
      pending_ends_{0} {}

template <class T>
void RaggedWriter<T>::append(std::span<const T> row) {
  pending_.insert(pending_.end(), row.begin(), row.end());
  end_ += static_cast<std::int64_t>(row.size());
  pending_ends_.push_back(end_);
  ++rows_;
  if (pending_.size() * sizeof(T) >= kPendingBytes || pending_ends_.size() >= kPendingRows) flush();
}

template <class T>
void RaggedWriter<T>::flush() {
  values_.append(std::span<const T>(pending_));
  offsets_.append(std::span<const std::int64_t>(pending_ends_));
  pending_.clear();
  pending_ends_.clear();
}

template <class T>
void RaggedWriter<T>::finish() {
  flush();
  const RaggedWriter done(std::move(*this));  // closes the datasets, so that the file can be committed
}

template <class T>
RaggedReader<T>::RaggedReader(const H5File& file, const std::string& name)
    : where_("'" + file.path().string() + "' rows '" + name + "'"),
      values_(file.dataset(name + "/values", type_of<T>())),
      offsets_(file.dataset(name + "/offsets", H5Type::i64)) {
  if (offsets_.size() < 1) throw RequestError("{}: no offsets", where_);
  std::int64_t first = 0;
  std::int64_t last = 0;
  offsets_.read<std::int64_t>(0, 1, &first);
  offsets_.read<std::int64_t>(offsets_.size() - 1, 1, &last);
  if (first != 0 || last != values_.size()) {
    throw RequestError("{}: offsets run from {} to {}, the values are {}", where_, first, last, values_.size());
  }
}

template <class T>
std::vector<std::int64_t> RaggedReader<T>::offsets(std::int64_t begin, std::int64_t count) const {
  if (begin < 0 || count < 0 || begin > rows() || count > rows() - begin) {
    throw RequestError("{}: rows {} to {} were asked for, there are {}", where_, begin, begin + count, rows());
  }
  std::vector<std::int64_t> out(static_cast<std::size_t>(count) + 1);
  offsets_.read<std::int64_t>(begin, count + 1, out.data());
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (out[i] < (i == 0 ? 0 : out[i - 1]) || out[i] > values_.size()) {
      throw RequestError("{}: offset {} of row {} is out of order", where_, out[i],
                         begin + static_cast<std::int64_t>(i));
    }
  }
  return out;
}

template <class T>
std::vector<T> RaggedReader<T>::row(std::int64_t index) const {
  const auto ends = offsets(index, 1);
  std::vector<T> out(static_cast<std::size_t>(ends[1] - ends[0]));
  values_.template read<T>(ends[0], ends[1] - ends[0], out.data());
  return out;
}

template <class T>
std::vector<std::vector<T>> RaggedReader<T>::rows(std::int64_t begin, std::int64_t count) const {
  const auto ends = offsets(begin, count);
  std::vector<T> all(static_cast<std::size_t>(ends.back() - ends.front()));
  values_.template read<T>(ends.front(), ends.back() - ends.front(), all.data());
  std::vector<std::vector<T>> out;
  out.reserve(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i + 1 < ends.size(); ++i) {
    out.emplace_back(all.begin() + (ends[i] - ends[0]), all.begin() + (ends[i + 1] - ends[0]));
  }
  return out;
}

template <class T>
std::vector<std::int64_t> RaggedReader<T>::lengths(std::int64_t begin, std::int64_t count) const {
  const auto ends = offsets(begin, count);
  std::vector<std::int64_t> out;
  out.reserve(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i + 1 < ends.size(); ++i) out.push_back(ends[i + 1] - ends[i]);
  return out;
}

#define TESSERA_RAGGED_INSTANTIATE(T) \
  template class RaggedWriter<T>;     \
  template class RaggedReader<T>;
TESSERA_RAGGED_INSTANTIATE(std::uint8_t)
TESSERA_RAGGED_INSTANTIATE(std::uint16_t)
TESSERA_RAGGED_INSTANTIATE(std::int32_t)
TESSERA_RAGGED_INSTANTIATE(std::int64_t)
TESSERA_RAGGED_INSTANTIATE(float)
#undef TESSERA_RAGGED_INSTANTIATE

}  // namespace tessera::io
