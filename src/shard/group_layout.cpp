#include "tessera/shard/group_layout.hpp"

#include <algorithm>

namespace tessera::shard {

namespace {
constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}
}  // namespace

GroupLayout::GroupLayout(const std::vector<nn::Param>& params, int world) : world_(world) {
  std::int64_t offset = 0;
  for (const auto& param : params) {
    const std::int64_t numel = param->numel();
    tensors_.push_back({param, offset, numel});
    elements_ += numel;
    offset = round_up(offset + numel, kAlign);
  }
  slice_ = round_up(offset, kAlign * world) / world;
}

std::vector<Piece> GroupLayout::pieces_in(std::int64_t begin, std::int64_t size) const {
  const std::int64_t end = begin + size;
  std::vector<Piece> out;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const auto& t = tensors_[i];
    const std::int64_t first = std::max(begin, t.offset);
    const std::int64_t last = std::min(end, t.offset + t.numel);
    if (first < last) out.push_back({i, first - t.offset, first - begin, last - first});
  }
  return out;
}

}  // namespace tessera::shard
