#include "tessera/comm/communicator.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <new>

#include "tessera/comm/flight.hpp"
#include "tessera/comm/schedule_check.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {

// --- Pending
// ------------------------------------------------------------------------------------------------------------

Pending& Pending::operator=(Pending&& other) noexcept {
  if (this != &other) {
    Pending old(std::move(state_));  // waits as its destructor says
    state_ = std::move(other.state_);
  }
  return *this;
}

Pending::~Pending() {
  if (!state_ || std::uncaught_exceptions() > 0) return;
  try {
    state_->wait();
  } catch (const std::exception&) {  // the transport has marked itself as failed: its next call throws this text
  }
}

void Pending::wait() {
  if (!state_) return;
  const auto state = std::move(state_);
  state->wait();
}

bool Pending::test() {
  if (!state_) return true;
  if (!state_->test()) return false;
  state_.reset();
  return true;
}

// --- Communicator
// -------------------------------------------------------------------------------------------------------

Communicator::Communicator(std::string_view name, std::shared_ptr<FlightRing> flight)
    : name_(name), flight_(std::move(flight)) {}

Communicator::~Communicator() = default;

void Communicator::set_schedule_check(std::unique_ptr<ScheduleCheck> check) {
  check_ = std::move(check);
}

void Communicator::refuse(const Call& call, const std::string& why) const {
  throw RunError("comm: rank {}/{}: {}: {}: {}", rank(), size(), name_, describe(call), why);
}

void Communicator::check_memory(const Call& call, const void* data, std::int64_t n) const {
  if (n < 0) refuse(call, fmt::format("negative count {}", n));
  if (n > 0 && data == nullptr) refuse(call, fmt::format("null address for {} elements", n));
}

/// `shard` may be slot `rank` of `full` exactly, or lie apart from it.
void Communicator::check_alias(const Call& call, ConstBuffer shard, ConstBuffer full) const {
  if (shard.type != full.type) {
    refuse(call, fmt::format("shard holds {}, full holds {}", name_of(shard.type), name_of(full.type)));
  }
  if (full.count != shard.count * size()) {
    refuse(call, fmt::format("full holds {} elements, {} ranks of {} need {}", full.count, size(), shard.count,
                             shard.count * size()));
  }
  const auto bytes = static_cast<std::uintptr_t>(shard.count) * size_of(shard.type);
  const auto at = reinterpret_cast<std::uintptr_t>(shard.data);
  const auto begin = reinterpret_cast<std::uintptr_t>(full.data);
  const auto slot = begin + bytes * static_cast<std::uintptr_t>(rank());
  const auto end = begin + bytes * static_cast<std::uintptr_t>(size());
  if (bytes != 0 && at != slot && at < end && begin < at + bytes) {
    refuse(call, "shard overlaps full elsewhere than in the rank's own slot");
  }
}

void Communicator::count(const Call& call) {
  const std::int64_t bytes = call.count * static_cast<std::int64_t>(size_of(call.type));
  const std::int64_t ranks = size();
  const auto kind = call.operation == Operation::reduce_scatter_add ? Operation::reduce_scatter : call.operation;
  Traffic& traffic = counters_[std::string(name_of(kind))];
  ++traffic.calls;
  if (ranks == 1) return;
  if (call.operation == Operation::broadcast) {
    (call.root == rank() ? traffic.sent : traffic.received) += bytes;
    return;
  }
  const std::int64_t passes = call.operation == Operation::all_reduce ? 2 : 1;
  const std::int64_t moved = passes * (ranks - 1) * (bytes / ranks) + passes * (ranks - 1) * (bytes % ranks) / ranks;
  traffic.sent += moved;
  traffic.received += moved;
}

Ticket Communicator::begin(const Call& call) {
  if (check_) check_->check(call);
  if (call.operation != Operation::barrier && call.operation != Operation::split) count(call);
  const std::int64_t sequence = sequence_++;
  const std::int64_t id = flight_ ? flight_->start(call, name_, sequence) : -1;
  return {flight_, id, fmt::format("{}: {}, sequence {}", name_, describe(call), sequence)};
}

Pending Communicator::start_all_gather(ConstBuffer shard, Buffer full) {
  const Call call{Operation::all_gather, full.count, full.type};
  check_memory(call, shard.data, shard.count);
  check_memory(call, full.data, full.count);
  check_alias(call, shard, full);
  return Pending(do_all_gather(shard, full, begin(call)));
}

Pending Communicator::start_reduce_scatter(ConstBuffer full, Buffer shard, ReduceOp op) {
  const Call call{Operation::reduce_scatter, full.count, full.type, op};
  check_memory(call, shard.data, shard.count);
  check_memory(call, full.data, full.count);
  check_alias(call, shard, full);
  if (full.type == DType::bytes) refuse(call, "raw bytes cannot be reduced");
  return Pending(do_reduce_scatter(full, shard, op, begin(call)));
}

Pending Communicator::start_reduce_scatter_add(ConstBuffer full, Buffer acc) {
  const Call call{Operation::reduce_scatter_add, full.count, full.type};
  check_memory(call, acc.data, acc.count);
  check_memory(call, full.data, full.count);
  check_alias(call, acc, full);
  const auto* slot = static_cast<const std::byte*>(full.data) +
                     static_cast<std::size_t>(acc.count) * size_of(acc.type) * static_cast<std::size_t>(rank());
  if (acc.count > 0 && acc.data == slot) refuse(call, "the accumulator lies in full");
  if (full.type != DType::f32 && full.type != DType::f64 && full.type != DType::i64) {
    refuse(call, "a sum over rounds needs f32, f64 or i64: it would be rounded at every round");
  }
  return Pending(do_reduce_scatter_add(full, acc, begin(call)));
}

Pending Communicator::start_all_reduce(Buffer data, ReduceOp op) {
  const Call call{Operation::all_reduce, data.count, data.type, op};
  check_memory(call, data.data, data.count);
  if (data.type == DType::bytes) refuse(call, "raw bytes cannot be reduced");
  return Pending(do_all_reduce(data, op, begin(call)));
}

Pending Communicator::start_broadcast(Buffer data, int root) {
  const Call call{Operation::broadcast, data.count, data.type, ReduceOp::sum, root};
  check_memory(call, data.data, data.count);
  if (root < 0 || root >= size()) refuse(call, fmt::format("the group has ranks 0 to {}", size() - 1));
  return Pending(do_broadcast(data, root, begin(call)));
}

void Communicator::barrier() {
  do_barrier(begin(Call{Operation::barrier}));
}

/// On huge pages where the system grants them: fewer page faults, and a copy from another process (CMA), which pins
/// page by page, runs faster.
namespace {

/// Pages of their own, the first at a multiple of `alignment`: what is given back leaves the process at once, and the
/// heap has no gap.
std::shared_ptr<void> map_pages(std::size_t bytes, std::size_t alignment) {
  const std::size_t mapped = bytes + alignment;
  void* start = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) throw std::bad_alloc();
  const auto address = reinterpret_cast<std::uintptr_t>(start);
  void* data = static_cast<char*>(start) + (alignment - address % alignment) % alignment;
  return {data, [start, mapped](void*) { munmap(start, mapped); }};
}

}  // namespace

std::shared_ptr<void> Communicator::allocate(std::size_t bytes) {
  constexpr std::size_t kPage = 4096;
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  if (bytes < 2 * kHugePage) {
    constexpr auto kAlignment = std::align_val_t{kPage};
    return {::operator new(std::max<std::size_t>(bytes, 1), kAlignment),
            [](void* p) { ::operator delete (p, std::align_val_t{kPage}); }};
  }
  auto data = map_pages(bytes, kHugePage);
#ifdef MADV_HUGEPAGE
  madvise(data.get(), bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // a wish: no failure matters
#endif
  return data;
}

std::unique_ptr<Communicator> Communicator::split(int color, int key, std::string_view name) {
  if (color < 0) refuse(Call{Operation::split}, fmt::format("color {} is negative", color));
  return do_split(color, key, name, begin(Call{Operation::split}));
}

}  // namespace tessera::comm
