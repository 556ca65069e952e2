#include "pretend/pretend_device.hpp"

#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <utility>

namespace tessera::pretend {
namespace {

constexpr auto kType = c10::DeviceType::PrivateUse1;
constexpr std::size_t kAlign = 256;                    // of CUDA's own allocator
constexpr std::size_t kMemory = std::size_t{8} << 30;  // what the device says it has

class Memory final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes == 0) return {nullptr, device()};
    auto* block = new Block{std::aligned_alloc(kAlign, (bytes + kAlign - 1) / kAlign * kAlign), bytes};
    TORCH_CHECK(block->data != nullptr, "the pretended device is out of memory");
    const auto now = in_use().fetch_add(bytes) + bytes;
    auto& most = peak();
    for (auto old = most.load(); old < now && !most.compare_exchange_weak(old, now);) {
    }
    return {block->data, block, &free_block, device()};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }  // the pointer alone does not tell the size
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.reserved_bytes[0].current = static_cast<std::int64_t>(in_use().load());
    stats.reserved_bytes[0].peak = static_cast<std::int64_t>(peak().load());
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override { peak() = in_use().load(); }
  std::pair<std::size_t, std::size_t> getMemoryInfo(c10::DeviceIndex) override {
    return {kMemory - in_use().load(), kMemory};
  }

 private:
  struct Block {
    void* data;
    std::size_t bytes;
  };
  static std::atomic<std::size_t>& in_use() {
    static std::atomic<std::size_t> bytes{0};
    return bytes;
  }
  static std::atomic<std::size_t>& peak() {
    static std::atomic<std::size_t> bytes{0};
    return bytes;
  }
  static void free_block(void* context) {
    auto* block = static_cast<Block*>(context);
    in_use() -= block->bytes;
    std::free(block->data);
    delete block;
  }
};

// Host memory that says it is pinned, so that code which asks for it is held to it.
class PinnedMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    void* data = std::aligned_alloc(kAlign, (bytes / kAlign + 1) * kAlign);
    TORCH_CHECK(data != nullptr, "out of host memory");
    return {data, data, &std::free, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
};

// Streams and events: one queue that is always done.
class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device) const override { return device(); }
  c10::Device getDevice() const override { return device(); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return stream(current()); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(0); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override { return stream(1); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(1); }
  c10::Stream exchangeStream(c10::Stream next) const override {
    const auto old = stream(current());
    current() = next.id();
    return old;
  }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {
    *event = const_cast<Guard*>(this);  // any place will do: what was enqueued is done
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}

 private:
  static c10::StreamId& current() {
    thread_local c10::StreamId id = 0;
    return id;
  }
  static c10::Stream stream(c10::StreamId id) { return c10::Stream(c10::Stream::UNSAFE, device(), id); }
};

class Hooks final : public at::PrivateUse1HooksInterface {
 public:
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::Device getDeviceFromPtr(void*) const override { return device(); }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    static PinnedMemory memory;
    return &memory;
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

}  // namespace

c10::Device device() {
  return {kType, 0};
}

void register_device() {
  static Memory memory;
  static Hooks hooks;
  c10::register_privateuse1_backend("pretended");
  c10::SetAllocator(kType, &memory);
  at::RegisterPrivateUse1HooksInterface(&hooks);
}

}  // namespace tessera::pretend
