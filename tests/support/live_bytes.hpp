#pragma once
// Bytes of host tensors that are alive, counted by an allocator of its own: what an operation keeps for backward is
// what lives after it beside its result.
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <cstddef>
#include <memory>

namespace tessera::testing_support {

class LiveBytes final : c10::Allocator {
 public:
  LiveBytes() : base_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this); }
  ~LiveBytes() override { c10::SetCPUAllocator(base_); }
  LiveBytes(const LiveBytes&) = delete;
  LiveBytes& operator=(const LiveBytes&) = delete;

  /// Of tensors made since construction; they may outlive this object.
  std::int64_t count() const { return *live_; }

 private:
  using Count = std::atomic<std::int64_t>;
  struct Held {
    c10::DataPtr memory;
    std::int64_t bytes;
    std::shared_ptr<Count> live;
  };
  static void release(void* held) {
    const std::unique_ptr<Held> owned(static_cast<Held*>(held));
    *owned->live -= owned->bytes;
  }
  c10::DataPtr allocate(std::size_t bytes) override {
    auto held = std::make_unique<Held>(Held{base_->allocate(bytes), static_cast<std::int64_t>(bytes), live_});
    *live_ += held->bytes;
    void* data = held->memory.get();
    return {data, held.release(), &release, c10::Device(c10::DeviceType::CPU)};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  c10::Allocator* base_;
  std::shared_ptr<Count> live_ = std::make_shared<Count>(0);
};

}  // namespace tessera::testing_support
