#include "tessera/shard/buffer_pool.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>

namespace tessera::shard {

BufferPool::BufferPool(c10::Device device, Allocate allocate)
    : device_(device), allocate_(std::move(allocate)), state_(std::make_shared<State>()) {}

BufferPool::Block BufferPool::take(std::int64_t bytes) {
  auto& free = state_->free;
  // The smallest block that fits, unless it would waste more than it serves.
  auto best = free.end();
  for (auto it = free.begin(); it != free.end(); ++it) {
    if (it->numel() >= bytes && it->numel() <= bytes + bytes / 16 &&
        (best == free.end() || it->numel() < best->numel()))
      best = it;
  }
  at::Tensor memory;
  if (best != free.end()) {
    memory = *best;
    free.erase(best);
  } else {
    const auto options = at::TensorOptions().dtype(at::kByte).device(device_);
    if (allocate_) {
      auto owner = allocate_(static_cast<std::size_t>(bytes));
      void* data = owner.get();
      memory = at::from_blob(
          data, {bytes}, [owner = std::move(owner)](void*) {}, options);
    } else {
      memory = at::empty({bytes}, options);
    }
    state_->allocated += bytes;
  }
  state_->in_use += memory.numel();
  state_->peak = std::max(state_->peak, state_->in_use);

  Block block;
  block.memory_ = std::shared_ptr<at::Tensor>(new at::Tensor(memory), [state = state_](at::Tensor* t) {
    state->in_use -= t->numel();
    state->free.push_back(*t);
    delete t;
  });
  return block;
}

}  // namespace tessera::shard
