#pragma once
#include <cstdint>
#include <span>

#include "tessera/comm/types.hpp"

namespace tessera::comm {

/// out[i] = sources[0][i] op sources[1][i] op …, in that order; f16 and bf16 in fp32 with one rounding (to nearest,
/// ties to even) at the end. `out` may be one of the sources. i64 sums wrap around.
void reduce_in_order(DType type, ReduceOp op, std::span<const void* const> sources, void* out, std::int64_t count);

}  // namespace tessera::comm
