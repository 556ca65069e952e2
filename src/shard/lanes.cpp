#include "shard/lanes.hpp"

#include <ATen/core/grad_mode.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <exception>

#include "tessera/core/error.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace tessera::shard {

namespace {

struct Cancelled {};  // unwinds a lane's stack after another one failed; deliberately no std::exception

// A stack with an unmapped page below it, so that running over it is a fault and not a corruption.
class Stack {
 public:
  Stack() {
    page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    void* memory =
        mmap(nullptr, kBytes + page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw RunError("shard: no memory for the stack of a lane: {}", std::strerror(errno));
    memory_ = memory;
    mprotect(memory_, page_, PROT_NONE);
  }
  ~Stack() { munmap(memory_, kBytes + page_); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  void* base() const noexcept { return static_cast<char*>(memory_) + page_; }
  static constexpr std::size_t kBytes = std::size_t{8}
                                        << 20;  // a thread's usual stack; touched pages alone cost memory

 private:
  std::size_t page_ = 0;
  void* memory_ = nullptr;
};

// The address sanitizer must be told when a thread changes its stack.
struct SanitizerSwitch {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  void leave(const void* bottom, std::size_t size, bool for_good = false) {
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, bottom, size);
  }
  void arrive(const void** from_bottom, std::size_t* from_size) {
    __sanitizer_finish_switch_fiber(fake, from_bottom, from_size);
  }
#else
  void leave(const void*, std::size_t, bool = false) {}
  void arrive(const void**, std::size_t*) {}
#endif
};

}  // namespace

struct Lanes::Impl {
  struct Lane {
    std::function<void()> function;
    Stack stack;
    ucontext_t context{};
    SanitizerSwitch sanitizer;
    std::exception_ptr error;
    int place = -1;
    bool started = false, finished = false;
    bool grad_mode = true;
  };

  std::vector<std::unique_ptr<Lane>> lanes;
  std::size_t current = 0;
  bool cancelled = false;
  ucontext_t home{};
  SanitizerSwitch home_sanitizer;
  const void* home_bottom = nullptr;
  std::size_t home_size = 0;

  static void entry(unsigned high, unsigned low) {
    auto* impl = reinterpret_cast<Impl*>(static_cast<std::uintptr_t>(high) << 32 | low);  // NOLINT
    Lane& lane = *impl->lanes[impl->current];
    lane.sanitizer.arrive(&impl->home_bottom, &impl->home_size);
    try {
      lane.function();
    } catch (const Cancelled&) {
    } catch (...) {
      lane.error = std::current_exception();
    }
    lane.finished = true;
    lane.sanitizer.leave(impl->home_bottom, impl->home_size, /*for_good=*/true);
    swapcontext(&lane.context, &impl->home);
  }

  // Runs lane `i` until its next meeting place or its end.
  void resume(std::size_t i) {
    Lane& lane = *lanes[i];
    current = i;
    if (!lane.started) {
      lane.started = true;
      getcontext(&lane.context);
      lane.context.uc_stack.ss_sp = lane.stack.base();
      lane.context.uc_stack.ss_size = Stack::kBytes;
      lane.context.uc_link = nullptr;
      const auto self = reinterpret_cast<std::uintptr_t>(this);  // NOLINT
      makecontext(&lane.context, reinterpret_cast<void (*)()>(&Impl::entry), 2, static_cast<unsigned>(self >> 32),
                  static_cast<unsigned>(self & 0xffffffff));
    }
    const bool outer_mode = at::GradMode::is_enabled();
    at::GradMode::set_enabled(lane.grad_mode);
    home_sanitizer.leave(lane.stack.base(), Stack::kBytes);
    swapcontext(&home, &lane.context);
    home_sanitizer.arrive(nullptr, nullptr);
    lane.grad_mode = at::GradMode::is_enabled();
    at::GradMode::set_enabled(outer_mode);
  }

  void yield() {
    Lane& lane = *lanes[current];
    lane.sanitizer.leave(home_bottom, home_size);
    swapcontext(&lane.context, &home);
    lane.sanitizer.arrive(&home_bottom, &home_size);
    if (cancelled) throw Cancelled{};
  }

  bool step() {  // every lane to its next meeting place; false when all have ended
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      resume(i);
      if (lanes[i]->error) return false;
    }
    for (const auto& lane : lanes) {
      if (lane->finished != lanes[0]->finished || lane->place != lanes[0]->place) {
        lanes[0]->error = std::make_exception_ptr(
            RunError("shard: micro-batches of one step run different units; the units a model runs must not depend on "
                     "its batch"));
        return false;
      }
    }
    return !lanes[0]->finished;
  }

  void cancel() {
    cancelled = true;
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      if (lanes[i]->started && !lanes[i]->finished) resume(i);
    }
  }
};

Lanes::Lanes(const std::vector<std::function<void()>>& functions) : impl_(std::make_unique<Impl>()) {
  for (const auto& function : functions) {
    auto lane = std::make_unique<Impl::Lane>();
    lane->function = function;
    lane->grad_mode = at::GradMode::is_enabled();
    impl_->lanes.push_back(std::move(lane));
  }
}

Lanes::~Lanes() {
  impl_->cancel();
}

void Lanes::run() {
  if (impl_->lanes.empty()) return;
  while (impl_->step()) {
  }
  for (const auto& lane : impl_->lanes) {
    if (!lane->error) continue;
    const auto error = lane->error;
    impl_->cancel();
    std::rethrow_exception(error);
  }
}

void Lanes::meet(int place) {
  impl_->lanes[impl_->current]->place = place;
  impl_->yield();
}

std::size_t Lanes::lane() const noexcept {
  return impl_->current;
}

std::size_t Lanes::size() const noexcept {
  return impl_->lanes.size();
}

}  // namespace tessera::shard
