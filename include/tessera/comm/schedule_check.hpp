#pragma once
/// ScheduleCheck: debug mode that proves that all ranks make the same collectives in the same order.
///
/// Before a collective starts, each rank folds its call (operation, count, type, reduction, root) into a running hash.
/// Every `interval` calls the hashes are compared over a control communicator of their own; where they differ, the
/// calls since the last comparison are exchanged and CommError is thrown on every rank, naming the first difference:
/// `schedule: collective 17 differs: rank 0 calls all_gather of 4096 f32, rank 2 calls barrier`.
/// interval 1 finds a difference before it can hang or corrupt anything; a larger one costs less.
/// A rank that makes no further call at all leaves the others waiting in the comparison: that is the watchdog's case.
#include <cstdint>
#include <memory>
#include <vector>

#include "tessera/comm/types.hpp"

namespace tessera::comm {

class Communicator;

class ScheduleCheck {
 public:
  /// `control` has the same ranks as the checked communicator, in the same order, and is used for nothing else.
  explicit ScheduleCheck(std::unique_ptr<Communicator> control, int interval = 1);
  ~ScheduleCheck();

  /// Collective over control every `interval` calls. Throws CommError on every rank.
  void check(const Call& call);
  std::uint64_t hash() const noexcept { return hash_; }

 private:
  void name_first_difference();

  std::unique_ptr<Communicator> control_;
  std::int64_t interval_;
  std::int64_t sequence_ = 0;  ///< of the next call
  std::uint64_t hash_;
  std::vector<Call> since_;  ///< calls since the last comparison
};

}  // namespace tessera::comm
