#include "shard/copy_stream.hpp"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace tessera::shard {

CopyStream::CopyStream(c10::Device device) : device_(device) {
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  side_ = guard.getStreamFromGlobalPool(device);
}

std::optional<c10::Event> CopyStream::run(const std::function<void()>& enqueue) const {
  if (!side_) {
    enqueue();
    return std::nullopt;
  }
  const c10::impl::VirtualGuardImpl guard(device_.type());
  c10::Event before(device_.type());
  before.record(guard.getStream(device_));
  before.block(*side_);
  {
    const c10::StreamGuard on_side(*side_);
    enqueue();
  }
  std::optional<c10::Event> done(std::in_place, device_.type());
  done->record(*side_);
  return done;
}

void CopyStream::wait(const std::optional<c10::Event>& done) const {
  if (!done) return;
  const c10::impl::VirtualGuardImpl guard(device_.type());
  done->block(guard.getStream(device_));
}

}  // namespace tessera::shard
