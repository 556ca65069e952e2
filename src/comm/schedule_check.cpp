#include "tessera/comm/schedule_check.hpp"

#include <fmt/format.h>

#include <array>

#include "tessera/comm/communicator.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {
namespace {

/// All ranks hold the same list and throw together, so the job can end in order.
template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> text, Args&&... args) {
  CommError error(text, std::forward<Args>(args)...);
  error.mark_everywhere();
  throw error;
}

constexpr std::size_t kFields = 5;
using Packed = std::array<std::int64_t, kFields>;

Packed pack(const Call& call) {
  return {static_cast<std::int64_t>(call.operation), call.count, static_cast<std::int64_t>(call.type),
          static_cast<std::int64_t>(call.op), call.root};
}

Call unpack(const std::int64_t* fields) {
  return {static_cast<Operation>(fields[0]), fields[1], static_cast<DType>(fields[2]), static_cast<ReduceOp>(fields[3]),
          static_cast<int>(fields[4])};
}

constexpr std::uint64_t kFnvOffset = 14695981039346656037ULL;
constexpr std::uint64_t kFnvPrime = 1099511628211ULL;

std::uint64_t fold(std::uint64_t hash, std::int64_t value) {
  for (int byte = 0; byte < 8; ++byte) {
    hash = (hash ^ ((static_cast<std::uint64_t>(value) >> (8 * byte)) & 0xff)) * kFnvPrime;
  }
  return hash;
}

}  // namespace

ScheduleCheck::ScheduleCheck(std::unique_ptr<Communicator> control, int interval)
    : control_(std::move(control)), interval_(interval), hash_(kFnvOffset) {
  if (interval < 1) throw RunError("comm: a schedule check needs an interval of at least 1 call, not {}", interval);
}

ScheduleCheck::~ScheduleCheck() = default;

void ScheduleCheck::check(const Call& call) {
  for (const std::int64_t field : pack(call)) hash_ = fold(hash_, field);
  since_.push_back(call);
  ++sequence_;
  if (sequence_ % interval_ != 0) return;
  const auto own = static_cast<std::int64_t>(hash_);
  std::vector<std::int64_t> all(static_cast<std::size_t>(control_->size()));
  control_->all_gather({&own, 1, DType::i64}, {all.data(), control_->size(), DType::i64});
  for (const std::int64_t other : all) {
    if (other != all[0]) name_first_difference();  // all ranks see the same list, so all of them take this turn
  }
  since_.clear();
}

void ScheduleCheck::name_first_difference() {
  std::vector<std::int64_t> own;
  for (const Call& call : since_) {
    const Packed fields = pack(call);
    own.insert(own.end(), fields.begin(), fields.end());
  }
  const auto n = static_cast<std::int64_t>(own.size());
  std::vector<std::int64_t> all(own.size() * static_cast<std::size_t>(control_->size()));
  control_->all_gather({own.data(), n, DType::i64}, {all.data(), n * control_->size(), DType::i64});
  const std::int64_t first = sequence_ - static_cast<std::int64_t>(since_.size());
  for (std::size_t i = 0; i < since_.size(); ++i) {
    const Call reference = unpack(all.data() + i * kFields);
    for (int rank = 1; rank < control_->size(); ++rank) {
      const Call other = unpack(all.data() + static_cast<std::size_t>(rank * n) + i * kFields);
      if (other == reference) continue;
      refuse("schedule: collective {} differs: rank 0 calls {}, rank {} calls {}", first + static_cast<std::int64_t>(i),
             describe(reference), rank, describe(other));
    }
  }
  refuse("schedule: the collectives before number {} differ between the ranks", first);
}

}  // namespace tessera::comm
