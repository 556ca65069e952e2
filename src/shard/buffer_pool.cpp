#include "tessera/shard/buffer_pool.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <limits>

namespace tessera::shard {

BufferPool::BufferPool(c10::Device device, Allocate allocate)
    : device_(device), allocate_(std::move(allocate)), state_(std::make_shared<State>()) {}

// The smallest free block of `bytes` to `most`; undefined when there is none.
at::Tensor BufferPool::take_free(std::int64_t bytes, std::int64_t most) {
  auto& free = state_->free;
  auto best = free.end();
  for (auto it = free.begin(); it != free.end(); ++it) {
    if (it->numel() >= bytes && it->numel() <= most && (best == free.end() || it->numel() < best->numel())) best = it;
  }
  if (best == free.end()) return {};
  at::Tensor memory = *best;
  free.erase(best);
  return memory;
}

// Free blocks go, smallest first, until a new one of `bytes` keeps the pool within what was on loan at once.
void BufferPool::give_up_smaller(std::int64_t bytes) {
  auto& free = state_->free;
  std::sort(free.begin(), free.end(), [](const auto& a, const auto& b) { return a.numel() > b.numel(); });
  while (!free.empty() && exceeds(bytes)) {
    state_->allocated -= free.back().numel();
    free.pop_back();
  }
}

// A small block more does no harm, while a small request that takes a large block makes the next large one a new one.
bool BufferPool::exceeds(std::int64_t bytes) const noexcept {
  return state_->allocated + bytes > state_->highest + state_->highest / 16;
}

at::Tensor BufferPool::allocate_new(std::int64_t bytes) {
  const auto options = at::TensorOptions().dtype(at::kByte).device(device_);
  state_->allocated += bytes;
  if (!allocate_) return at::empty({bytes}, options);
  auto owner = allocate_(static_cast<std::size_t>(bytes));
  void* data = owner.get();
  return at::from_blob(
      data, {bytes}, [owner = std::move(owner)](void*) {}, options);
}

BufferPool::Block BufferPool::take(std::int64_t bytes) {
  state_->in_use += bytes;
  state_->peak = std::max(state_->peak, state_->in_use);
  state_->highest = std::max(state_->highest, state_->in_use);
  at::Tensor memory = take_free(bytes, bytes + bytes / 16);
  if (!memory.defined() && exceeds(bytes)) {
    memory = take_free(bytes, std::numeric_limits<std::int64_t>::max());
    if (!memory.defined() && device_.is_cpu()) give_up_smaller(bytes);
  }
  if (!memory.defined()) memory = allocate_new(bytes);

  Block block;
  block.memory_ = std::shared_ptr<at::Tensor>(new at::Tensor(memory), [state = state_, bytes](at::Tensor* t) {
    state->in_use -= bytes;
    state->free.push_back(*t);
    delete t;
  });
  return block;
}

}  // namespace tessera::shard
