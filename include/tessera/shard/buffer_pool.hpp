#pragma once
/// BufferPool: the memory that gathered weights and unreduced gradients pass through. Blocks return to the pool and are
/// used again, so a run's peak is a function of the schedule and not of an allocator: in host memory the pool never
/// holds a sixteenth more than the most that was on loan at once, but for what differences in size make unavoidable. A
/// block larger than asked for serves when a new one would exceed that, and blocks that are too small are given up for
/// one that fits. On devices nothing is given up before the end: work that uses a block may still be queued. One thread
/// at a time.
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace tessera::shard {

class BufferPool {
 public:
  /// Memory on loan; goes back when the last copy of the handle is destroyed.
  class Block {
   public:
    Block() = default;
    void* data() const { return memory_ ? memory_->mutable_data_ptr() : nullptr; }
    explicit operator bool() const noexcept { return memory_ != nullptr; }
    void reset() noexcept { memory_.reset(); }

   private:
    friend class BufferPool;
    std::shared_ptr<at::Tensor> memory_;  // uint8 [capacity]
  };
  /// Where new blocks come from: a communicator's allocate(), whose memory the transport moves best.
  using Allocate = std::function<std::shared_ptr<void>(std::size_t bytes)>;

  /// Without `allocate`, memory is LibTorch's.
  explicit BufferPool(c10::Device device, Allocate allocate = {});

  /// At least `bytes`, 64-byte aligned, content undefined.
  Block take(std::int64_t bytes);

  std::int64_t in_use() const noexcept { return state_->in_use; }        ///< bytes on loan now, as asked for
  std::int64_t peak() const noexcept { return state_->peak; }            ///< largest in_use since the last reset_peak
  std::int64_t allocated() const noexcept { return state_->allocated; }  ///< bytes held, on loan or not
  void reset_peak() noexcept { state_->peak = state_->in_use; }

 private:
  struct State {
    std::vector<at::Tensor> free;
    std::int64_t in_use = 0;
    std::int64_t peak = 0;
    std::int64_t highest = 0;  // in_use ever
    std::int64_t allocated = 0;
  };
  at::Tensor take_free(std::int64_t bytes, std::int64_t most);
  void give_up_smaller(std::int64_t bytes);
  bool exceeds(std::int64_t bytes) const noexcept;  // what the pool may hold, with `bytes` more
  at::Tensor allocate_new(std::int64_t bytes);
  c10::Device device_;
  Allocate allocate_;
  std::shared_ptr<State> state_;  // shared with the blocks on loan, which may outlive the pool
};

}  // namespace tessera::shard
