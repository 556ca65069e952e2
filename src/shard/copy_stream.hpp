#pragma once
// CopyStream: a side stream of a GPU for copies from host memory, so that they run beside the computation. On a CPU the
// calls do nothing: a copy there is done when it returns.
#include <c10/core/Device.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/StreamGuard.h>

#include <functional>
#include <optional>

namespace tessera::shard {

class CopyStream {
 public:
  explicit CopyStream(c10::Device device);

  // Runs `enqueue` with the side stream as the current one, after everything that the current stream has been given so
  // far (it may still read the memory that is written now). The event passes when what was enqueued is done.
  std::optional<c10::Event> run(const std::function<void()>& enqueue) const;
  // The current stream goes on only after the event.
  void wait(const std::optional<c10::Event>& done) const;

 private:
  c10::Device device_;
  std::optional<c10::Stream> side_;
};

}  // namespace tessera::shard
