#pragma once
// Filling slices in parallel: from files, in the order in which they lie there, or by a parameter's Init.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "tessera/core/progress.hpp"
#include "tessera/io/tensor_source.hpp"
#include "tessera/nn/param.hpp"

namespace tessera::shard {

/// Elements [begin, begin + count) of a parameter and where they go. What the file does not hold is drawn.
struct Fill {
  nn::Param param;
  const io::TensorInfo* info = nullptr;  // null: all of it is drawn
  std::int64_t begin = 0;
  std::int64_t count = 0;
  at::Tensor target;  // [count], any floating type, any device; or, in its place:
  // Takes elements [at, at + count) of the parameter, a multiple of `grain` at a time, on several threads.
  std::function<void(std::int64_t at, std::int64_t count, const float* values)> put{};
  std::int64_t grain = 1;
  std::int64_t from_file() const noexcept;
};

/// Runs `work(i)` for i in [0, count) on `threads` threads, this one among them; the first error ends all and is
/// thrown. `after` is called on this thread now and then.
void run_parallel(std::size_t count, int threads, const std::function<void(std::size_t)>& work,
                  const std::function<void()>& after = {});

/// Threads for work of a rank that shares its node with others: its part of the processors it may run on.
int own_threads(int ranks_on_node);

/// Reads and draws everything; memory beside the slices is a few MiB a thread. A load of more than a second shows its
/// progress in `style`. Returns the bytes read.
std::int64_t fill_slices(const io::TensorSource& source, std::vector<Fill> fills, std::uint64_t seed, int threads,
                         ProgressStyle style);

}  // namespace tessera::shard
