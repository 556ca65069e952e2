#include "shard/slice_states.hpp"

#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "tessera/shard/moments8.hpp"

namespace tessera::shard {

static_assert(kMomentBlock % GroupLayout::kAlign == 0);  // group_spec.cpp cuts such groups between blocks

namespace {

std::int64_t aligned(std::int64_t n) {
  return (n + GroupLayout::kAlign - 1) / GroupLayout::kAlign * GroupLayout::kAlign;
}

bool is_exact(const GroupLayout& layout, const Piece& piece) {
  const auto& param = *layout.tensors()[piece.tensor].param;
  return keeps_exact_moments(param.name, param.numel());
}

// Room for the fp32 moments beside coded ones: the most that a rank needs, so that all hold as much.
std::int64_t exact_room(const GroupLayout& layout) {
  std::int64_t most = 0;
  for (int rank = 0; rank < layout.world(); ++rank) {
    std::int64_t room = 0;
    for (const auto& piece : layout.pieces(rank)) room += is_exact(layout, piece) ? aligned(piece.count) : 0;
    most = std::max(most, room);
  }
  return most;
}

bool has_importance(const GroupLayout& layout, const EngineConfig& config) {
  return config.importance >= 0 && layout.tensors().front().param->unit == config.importance;
}

CodedMoment coded_zeros(const at::Tensor& master) {
  const auto n = master.numel();
  return {at::zeros({n}, master.options().dtype(at::kByte)), at::zeros({n / kMomentBlock}, master.options())};
}

}  // namespace

std::int64_t moment_bytes(const GroupLayout& layout, const EngineConfig& config) {
  const auto importance = has_importance(layout, config) ? 2 * layout.slice() * 4 : 0;
  if (!config.moments_8bit) return importance + config.moments * layout.slice() * 4;
  return importance + config.moments * (layout.slice() + layout.slice() / kMomentBlock * 4 + exact_room(layout) * 4);
}

std::int64_t average_bytes(const GroupLayout& layout, const EngineConfig& config) {
  return config.average ? layout.slice() * 4 : 0;
}

void allocate_states(TrainedSlice& slice, const EngineConfig& config) {
  if (config.average) slice.average = at::zeros_like(slice.master);
  if (has_importance(*slice.layout, config)) {
    slice.sensitivity = at::zeros_like(slice.master);
    slice.uncertainty = at::zeros_like(slice.master);
  }
  std::int64_t room = 0;
  for (const auto& piece : slice.pieces) {
    const bool exact = !config.moments_8bit || is_exact(*slice.layout, piece);
    slice.exact_at.push_back(!exact ? -1 : config.moments_8bit ? room : piece.slice_begin);
    if (exact) room += aligned(piece.count);
  }
  if (config.moments_8bit) {
    slice.coded_avg = coded_zeros(slice.master);
    slice.coded_avg_sq = coded_zeros(slice.master);
  }
  const auto elements = config.moments_8bit ? exact_room(*slice.layout) : slice.master.numel();
  if (config.moments > 0) slice.exp_avg = at::zeros({elements}, slice.master.options());
  if (config.moments > 1) slice.exp_avg_sq = at::zeros({elements}, slice.master.options());
}

std::vector<StatePart> states_of(const TrainedSlice& slice, std::size_t index) {
  const auto& piece = slice.pieces[index];
  std::vector<StatePart> out;
  const auto add = [&](const char* name, const at::Tensor& t, std::int64_t from) {
    if (t.defined()) out.push_back({name, piece.tensor_begin, piece.count, t.narrow(0, from, piece.count)});
  };
  const auto add_coded = [&](const char* codes, const char* scales, const CodedMoment& moment) {
    add(codes, moment.codes, piece.slice_begin);
    const auto blocks = (piece.count + kMomentBlock - 1) / kMomentBlock;
    out.push_back({scales, piece.tensor_begin / kMomentBlock, blocks,
                   moment.scales.narrow(0, piece.slice_begin / kMomentBlock, blocks)});
  };
  add("master", slice.master, piece.slice_begin);
  if (const auto at = slice.exact_at[index]; at >= 0) {
    add("exp_avg", slice.exp_avg, at);
    add("exp_avg_sq", slice.exp_avg_sq, at);
  } else {
    add_coded("exp_avg_codes", "exp_avg_scales", slice.coded_avg);
    add_coded("exp_avg_sq_codes", "exp_avg_sq_scales", slice.coded_avg_sq);
  }
  add("average", slice.average, piece.slice_begin);
  add("sensitivity", slice.sensitivity, piece.slice_begin);
  add("uncertainty", slice.uncertainty, piece.slice_begin);
  return out;
}

}  // namespace tessera::shard
