#pragma once
// Several operations one after another over long vectors, piece by piece: a piece stays in a core's cache from one
// operation to the next, so that all of them together read and write memory once.
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstdint>

namespace tessera::shard {

// Too small for LibTorch to divide among threads: which elements fall into a vector does not depend on their number.
inline constexpr std::int64_t kPieceInCache = 16384;

// work(begin, count) for every piece of [0, n), on all threads.
template <class Work>
void for_pieces_in_cache(std::int64_t n, Work&& work) {
  const std::int64_t pieces = (n + kPieceInCache - 1) / kPieceInCache;
  at::parallel_for(0, pieces, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::NoGradGuard no_grad;
    for (std::int64_t i = begin; i < end; ++i) work(i * kPieceInCache, std::min(kPieceInCache, n - i * kPieceInCache));
  });
}

}  // namespace tessera::shard
