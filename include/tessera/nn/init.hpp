#pragma once
/// Initial values by element range, so that a rank fills its slice of a weight without the rest.
#include <cstdint>

#include "tessera/nn/param.hpp"

namespace tessera::nn {

/// Writes elements [begin, begin+count) of the parameter's initial value to `out`. Element i depends on
/// (seed, param.name, i) alone: the same weight on any number of ranks.
void fill_init(const ParamState& param, std::uint64_t seed, std::int64_t begin, std::int64_t count, float* out);

}  // namespace tessera::nn
