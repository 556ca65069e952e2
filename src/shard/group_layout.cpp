#include "tessera/shard/group_layout.hpp"

#include <algorithm>

namespace tessera::shard {

namespace {
constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}
}  // namespace

void GroupLayout::place(Placed placed) {
  const std::int64_t end = round_up(placed.offset + placed.numel, align_);
  elements_ += placed.numel;
  slice_ = round_up(end, align_ * world_) / world_;
  tensors_.push_back(std::move(placed));
}

GroupLayout::GroupLayout(const std::vector<nn::Param>& params, int world, std::int64_t align)
    : world_(world), align_(align) {
  for (const auto& param : params) {
    const auto offset = tensors_.empty() ? 0 : round_up(tensors_.back().offset + tensors_.back().numel, align_);
    place({param, offset, param->numel(), 0, param->shape});
  }
}

GroupLayout::GroupLayout(const nn::Param& matrix, const RowRange& rows, int world, std::int64_t align)
    : world_(world), align_(align) {
  const std::int64_t row = matrix->numel() / matrix->shape.at(0);
  auto shape = matrix->shape;
  shape[0] = rows.count;
  place({matrix, 0, rows.count * row, rows.first * row, std::move(shape)});
}

std::vector<Piece> GroupLayout::pieces_in(std::int64_t begin, std::int64_t size) const {
  const std::int64_t end = begin + size;
  std::vector<Piece> out;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const auto& t = tensors_[i];
    const std::int64_t first = std::max(begin, t.offset);
    const std::int64_t last = std::min(end, t.offset + t.numel);
    if (first < last) out.push_back({i, t.begin + first - t.offset, first - begin, last - first});
  }
  return out;
}

}  // namespace tessera::shard
