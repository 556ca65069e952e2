#pragma once
/// What every transport must do, as one parametrised suite. A transport's test program includes this header once and
/// instantiates it with a Fixture that makes its communicator and its memory.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "comm/half.hpp"
#include "tessera/comm/communicator.hpp"
#include "tessera/comm/schedule_check.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm::conformance {

/// Memory the transport can reach: the host's for MPI, a device's for NCCL.
struct Fixture {
  std::string name;
  std::function<std::unique_ptr<Communicator>()> make;
  std::function<std::shared_ptr<void>(std::size_t bytes)> allocate;
  std::function<void(void* to, const void* host, std::size_t bytes)> upload;
  std::function<void(void* host, const void* from, std::size_t bytes)> download;
  std::function<std::string()> why_not = [] { return std::string(); };  ///< a reason to skip, the same on every rank
};

inline Fixture host_fixture(std::string name, std::function<std::unique_ptr<Communicator>()> make) {
  const auto copy = [](void* to, const void* from, std::size_t bytes) {
    if (bytes != 0) std::memcpy(to, from, bytes);
  };
  const auto allocate = [](std::size_t bytes) {
    return std::shared_ptr<void>(new std::byte[bytes + 1], [](void* p) { delete[] static_cast<std::byte*>(p); });
  };
  return {std::move(name), std::move(make), allocate, copy, copy, [] { return std::string(); }};
}

inline std::vector<std::byte> encode(DType type, const std::vector<double>& values) {
  std::vector<std::byte> bytes(values.size() * size_of(type));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto put = [&](auto v) { std::memcpy(bytes.data() + i * sizeof v, &v, sizeof v); };
    switch (type) {
      case DType::f32:
        put(static_cast<float>(values[i]));
        break;
      case DType::f64:
        put(values[i]);
        break;
      case DType::bf16:
        put(bf16_of_float(static_cast<float>(values[i])));
        break;
      case DType::f16:
        put(f16_of_float(static_cast<float>(values[i])));
        break;
      case DType::i64:
        put(static_cast<std::int64_t>(values[i]));
        break;
      case DType::bytes:
        put(static_cast<std::uint8_t>(values[i]));
        break;
    }
  }
  return bytes;
}

inline std::vector<double> decode(DType type, const std::vector<std::byte>& bytes) {
  std::vector<double> values(bytes.size() / size_of(type));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto get = [&](auto v) {
      std::memcpy(&v, bytes.data() + i * sizeof v, sizeof v);
      return v;
    };
    switch (type) {
      case DType::f32:
        values[i] = static_cast<double>(get(float{}));
        break;
      case DType::f64:
        values[i] = get(double{});
        break;
      case DType::bf16:
        values[i] = static_cast<double>(float_of_bf16(get(std::uint16_t{})));
        break;
      case DType::f16:
        values[i] = static_cast<double>(float_of_f16(get(std::uint16_t{})));
        break;
      case DType::i64:
        values[i] = static_cast<double>(get(std::int64_t{}));
        break;
      case DType::bytes:
        values[i] = get(std::uint8_t{});
        break;
    }
  }
  return values;
}

/// Elements in the transport's memory.
class Array {
 public:
  Array(const Fixture& fixture, DType type, const std::vector<double>& values)
      : fixture_(&fixture), type_(type), count_(static_cast<std::int64_t>(values.size())) {
    const auto bytes = encode(type, values);
    memory_ = fixture.allocate(bytes.size());
    fixture.upload(memory_.get(), bytes.data(), bytes.size());
  }
  Buffer buffer() const { return {memory_.get(), count_, type_}; }
  Buffer slot(int rank, std::int64_t n) const {
    return {static_cast<std::byte*>(memory_.get()) + rank * n * static_cast<std::int64_t>(size_of(type_)), n, type_};
  }
  std::vector<std::byte> bytes() const {
    std::vector<std::byte> out(static_cast<std::size_t>(count_) * size_of(type_));
    fixture_->download(out.data(), memory_.get(), out.size());
    return out;
  }
  std::vector<double> values() const { return decode(type_, bytes()); }

 private:
  const Fixture* fixture_;
  DType type_;
  std::int64_t count_;
  std::shared_ptr<void> memory_;
};

/// A small integer that differs between ranks and neighbours; sums over a few ranks are exact in every type.
inline double value(int rank, std::int64_t i) {
  return static_cast<double>((7 * i + 13 * rank + i / 5) % 29 + rank);
}

inline std::vector<double> values_of(int rank, std::int64_t n, std::int64_t first = 0) {
  std::vector<double> v(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) v[static_cast<std::size_t>(i)] = value(rank, first + i);
  return v;
}

inline double expected(int size, std::int64_t i, ReduceOp op) {
  double result = value(0, i);
  for (int r = 1; r < size; ++r) {
    const double v = value(r, i);
    result = op == ReduceOp::sum ? result + v : op == ReduceOp::max ? std::max(result, v) : std::min(result, v);
  }
  return result;
}

class Conformance : public testing::TestWithParam<const Fixture*> {
 protected:
  void SetUp() override {
    if (const std::string reason = GetParam()->why_not(); !reason.empty()) GTEST_SKIP() << "skipped: " << reason;
    comm_ = GetParam()->make();
  }
  void TearDown() override {
    if (comm_ && !HasFatalFailure()) comm_->close();
  }
  Array array(DType type, const std::vector<double>& values) const { return {*GetParam(), type, values}; }
  Communicator& comm() { return *comm_; }
  int rank() const { return comm_->rank(); }
  int size() const { return comm_->size(); }

  std::unique_ptr<Communicator> comm_;
};

inline constexpr DType kTypes[] = {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64, DType::bytes};
inline constexpr DType kNumbers[] = {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64};
inline constexpr ReduceOp kOps[] = {ReduceOp::sum, ReduceOp::max, ReduceOp::min};
inline constexpr std::int64_t kCounts[] = {0, 1, 3, 1000, 4099, 20011};

TEST_P(Conformance, AllGatherPlacesEveryShardByRank) {
  for (const DType type : kTypes) {
    for (const std::int64_t n : kCounts) {
      SCOPED_TRACE(testing::Message() << name_of(type) << " n=" << n);
      const Array shard = array(type, values_of(rank(), n));
      const Array full = array(type, std::vector<double>(static_cast<std::size_t>(n * size()), 77));
      comm().all_gather(shard.buffer(), full.buffer());
      std::vector<double> want;
      for (int r = 0; r < size(); ++r) {
        const auto part = values_of(r, n);
        want.insert(want.end(), part.begin(), part.end());
      }
      ASSERT_EQ(full.values(), want);
    }
  }
}

TEST_P(Conformance, AllGatherTakesTheRanksOwnSlotAsShard) {
  constexpr std::int64_t n = 1237;
  const Array full = array(DType::f32, values_of(rank(), n * size()));
  comm().all_gather(full.slot(rank(), n), full.buffer());
  const auto got = full.values();
  for (int r = 0; r < size(); ++r) {
    for (std::int64_t i = 0; i < n; ++i) {
      ASSERT_EQ(got[static_cast<std::size_t>(r * n + i)], value(r, r * n + i)) << "rank " << r << " element " << i;
    }
  }
}

TEST_P(Conformance, ReduceScatterReducesTheRanksSlot) {
  for (const DType type : kNumbers) {
    for (const ReduceOp op : kOps) {
      for (const std::int64_t n : kCounts) {
        SCOPED_TRACE(testing::Message() << name_of(type) << " " << name_of(op) << " n=" << n);
        const Array full = array(type, values_of(rank(), n * size()));
        const Array shard = array(type, std::vector<double>(static_cast<std::size_t>(n), 77));
        comm().reduce_scatter(full.buffer(), shard.buffer(), op);
        std::vector<double> want(static_cast<std::size_t>(n));
        for (std::int64_t i = 0; i < n; ++i) want[static_cast<std::size_t>(i)] = expected(size(), rank() * n + i, op);
        ASSERT_EQ(shard.values(), want);
        ASSERT_EQ(full.values(), decode(type, encode(type, values_of(rank(), n * size())))) << "full is only read";
      }
    }
  }
}

TEST_P(Conformance, ReduceScatterWritesIntoTheRanksOwnSlot) {
  constexpr std::int64_t n = 5003;
  const Array full = array(DType::f32, values_of(rank(), n * size()));
  comm().reduce_scatter(full.buffer(), full.slot(rank(), n));
  const auto got = full.values();
  for (std::int64_t i = 0; i < n * size(); ++i) {
    const double want = i / n == rank() ? expected(size(), i, ReduceOp::sum) : value(rank(), i);
    ASSERT_EQ(got[static_cast<std::size_t>(i)], want) << "element " << i;
  }
}

/// Contribution m to element i: of magnitudes so different that another order of summation gives other bits.
inline double uneven(std::int64_t m, std::int64_t i) {
  const double x = std::sin(static_cast<double>(3 * m + 1) * static_cast<double>(i + 1));
  return std::ldexp(x, static_cast<int>((5 * m + i) % 23));
}

TEST_P(Conformance, ReduceScatterAddIsTheSequentialSumOverRoundsAndRanks) {
  constexpr std::int64_t contributions = 7;  // the last round of 2, 3 or 4 ranks is not full
  for (const DType type : {DType::f32, DType::f64, DType::i64}) {
    for (const std::int64_t n : kCounts) {
      SCOPED_TRACE(testing::Message() << name_of(type) << " n=" << n);
      const auto at = [&](std::int64_t m, std::int64_t i) { return m < contributions ? uneven(m, i) : 0.0; };
      const Array acc = array(type, std::vector<double>(static_cast<std::size_t>(n)));
      for (std::int64_t first = 0; first < contributions; first += size()) {
        std::vector<double> mine(static_cast<std::size_t>(n * size()));
        for (std::int64_t i = 0; i < n * size(); ++i) mine[static_cast<std::size_t>(i)] = at(first + rank(), i);
        const Array full = array(type, mine);
        comm().reduce_scatter_add(full.buffer(), acc.buffer());
        ASSERT_EQ(full.bytes(), encode(type, mine)) << "full is only read";
      }
      std::vector<double> want(static_cast<std::size_t>(n));
      for (std::int64_t i = 0; i < n; ++i) {
        double& sum = want[static_cast<std::size_t>(i)];
        for (std::int64_t m = 0; m < contributions; ++m) {
          const double term = decode(type, encode(type, {at(m, rank() * n + i)}))[0];
          sum =
              type == DType::f32 ? static_cast<double>(static_cast<float>(sum) + static_cast<float>(term)) : sum + term;
        }
      }
      ASSERT_EQ(acc.bytes(), encode(type, want));
    }
  }
}

TEST_P(Conformance, ReduceScatterAddStartsFromWhatTheAccumulatorHolds) {
  constexpr std::int64_t n = 300007;  // several segments, two calls in flight on accumulators of their own
  const Array full = array(DType::f32, values_of(rank(), n * size()));
  const Array a = array(DType::f32, std::vector<double>(static_cast<std::size_t>(n), 5));
  const Array b = array(DType::f32, std::vector<double>(static_cast<std::size_t>(n), -2));
  Pending first = comm().start_reduce_scatter_add(full.buffer(), a.buffer());
  Pending second = comm().start_reduce_scatter_add(full.buffer(), b.buffer());
  second.wait();
  first.wait();
  const auto got_a = a.values();
  const auto got_b = b.values();
  for (std::int64_t i = 0; i < n; ++i) {
    const double sum = expected(size(), rank() * n + i, ReduceOp::sum);
    ASSERT_EQ(got_a[static_cast<std::size_t>(i)], sum + 5);
    ASSERT_EQ(got_b[static_cast<std::size_t>(i)], sum - 2);
  }
}

TEST_P(Conformance, AllReduceReducesInPlace) {
  for (const DType type : kNumbers) {
    for (const ReduceOp op : kOps) {
      for (const std::int64_t n : kCounts) {
        SCOPED_TRACE(testing::Message() << name_of(type) << " " << name_of(op) << " n=" << n);
        const Array data = array(type, values_of(rank(), n));
        comm().all_reduce(data.buffer(), op);
        std::vector<double> want(static_cast<std::size_t>(n));
        for (std::int64_t i = 0; i < n; ++i) want[static_cast<std::size_t>(i)] = expected(size(), i, op);
        ASSERT_EQ(data.values(), want);
      }
    }
  }
}

TEST_P(Conformance, AllReduceGivesTheSameBitsOnEveryRank) {
  for (const std::int64_t n : {11, 4099, 70001}) {
    std::vector<double> mine(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < mine.size(); ++i) mine[i] = std::sin(static_cast<double>(i + 1) * (rank() + 1)) * 1e3;
    const Array data = array(DType::f32, mine);
    comm().all_reduce(data.buffer());
    const auto own = data.bytes();
    const Array all = array(DType::f32, std::vector<double>(static_cast<std::size_t>(n * size())));
    comm().all_gather(data.buffer(), all.buffer());
    const auto everyone = all.bytes();
    for (int r = 0; r < size(); ++r) {
      ASSERT_EQ(std::memcmp(own.data(), everyone.data() + static_cast<std::size_t>(r) * own.size(), own.size()), 0);
    }
  }
}

TEST_P(Conformance, BroadcastCopiesTheRoot) {
  for (int root = 0; root < size(); ++root) {
    for (const DType type : kTypes) {
      for (const std::int64_t n : kCounts) {
        SCOPED_TRACE(testing::Message() << name_of(type) << " n=" << n << " root=" << root);
        const Array data = array(type, values_of(rank(), n));
        comm().broadcast(data.buffer(), root);
        ASSERT_EQ(data.values(), values_of(root, n));
      }
    }
  }
}

TEST_P(Conformance, CollectivesOverlapAndMayBeWaitedForInAnyOrder) {
  constexpr std::int64_t n = 300007;  // several pipeline segments
  const Array shard = array(DType::f32, values_of(rank(), n));
  const Array full = array(DType::f32, std::vector<double>(static_cast<std::size_t>(n * size())));
  const Array gradient = array(DType::f32, values_of(rank(), n * size()));
  const Array reduced = array(DType::f32, std::vector<double>(static_cast<std::size_t>(n)));
  const Array sum = array(DType::f32, values_of(rank(), n));
  Pending gather = comm().start_all_gather(shard.buffer(), full.buffer());
  Pending scatter = comm().start_reduce_scatter(gradient.buffer(), reduced.buffer(), ReduceOp::sum);
  Pending reduce = comm().start_all_reduce(sum.buffer(), ReduceOp::sum);
  if (rank() % 2 == 0) {  // a rank that waits for one must still serve the others
    reduce.wait();
    scatter.wait();
    gather.wait();
  } else {
    gather.wait();
    while (!scatter.test()) {
    }
    reduce.wait();
  }
  EXPECT_FALSE(gather.pending());
  const auto got_full = full.values();
  const auto got_reduced = reduced.values();
  const auto got_sum = sum.values();
  for (std::int64_t i = 0; i < n; i += 991) {
    const auto at = static_cast<std::size_t>(i);
    for (int r = 0; r < size(); ++r) ASSERT_EQ(got_full[static_cast<std::size_t>(r * n + i)], value(r, i));
    ASSERT_EQ(got_reduced[at], expected(size(), rank() * n + i, ReduceOp::sum));
    ASSERT_EQ(got_sum[at], expected(size(), i, ReduceOp::sum));
  }
}

TEST_P(Conformance, DroppedPendingHasFinished) {
  constexpr std::int64_t n = 20011;
  const Array data = array(DType::f32, values_of(rank(), n));
  { const Pending dropped = comm().start_all_reduce(data.buffer(), ReduceOp::sum); }
  Pending first = comm().start_all_reduce(data.buffer(), ReduceOp::max);
  first = comm().start_all_reduce(data.buffer(), ReduceOp::max);  // assignment completes what it replaces
  first.wait();
  EXPECT_EQ(data.values()[17], expected(size(), 17, ReduceOp::sum));
}

TEST_P(Conformance, SplitMakesGroupsOrderedByKey) {
  const Array pending = array(DType::i64, values_of(rank(), 50001));
  Pending in_flight = comm().start_all_reduce(pending.buffer(), ReduceOp::sum);  // split completes it
  const auto half = comm().split(rank() % 2, -rank(), "half");
  in_flight.wait();
  EXPECT_EQ(pending.values()[5], expected(size(), 5, ReduceOp::sum));
  EXPECT_EQ(half->name(), "half");
  const int members = (size() + 1 - rank() % 2) / 2;
  ASSERT_EQ(half->size(), members);
  EXPECT_EQ(half->rank(), members - 1 - rank() / 2);
  const Array ranks = array(DType::i64, std::vector<double>(static_cast<std::size_t>(members)));
  const Array own = array(DType::i64, {static_cast<double>(rank())});
  half->all_gather(own.buffer(), ranks.buffer());
  const auto got = ranks.values();
  for (int i = 0; i < members; ++i) EXPECT_EQ(got[static_cast<std::size_t>(i)], 2 * (members - 1 - i) + rank() % 2);
  half->close();
}

TEST_P(Conformance, CountersFollowTheBandwidthOptimalCount) {
  constexpr std::int64_t n = 101;
  const std::int64_t w = size();
  const std::int64_t full_bytes = n * w * 4;
  const Array shard = array(DType::f32, values_of(rank(), n));
  const Array full = array(DType::f32, values_of(rank(), n * w));
  comm().reset_counters();
  comm().all_gather(shard.buffer(), full.buffer());
  comm().all_gather(shard.buffer(), full.buffer());
  comm().reduce_scatter(full.buffer(), shard.buffer());
  const Array sum = array(DType::f32, values_of(rank(), n));
  comm().reduce_scatter_add(full.buffer(), sum.buffer());
  comm().all_reduce(shard.buffer());
  comm().broadcast(shard.buffer(), 0);
  comm().barrier();
  const Counters& counters = comm().counters();
  ASSERT_EQ(counters.size(), 4U);
  EXPECT_EQ(counters.at("all_gather").calls, 2);
  EXPECT_EQ(counters.at("all_gather").sent, 2 * (w - 1) * full_bytes / w);
  EXPECT_EQ(counters.at("all_gather").received, 2 * (w - 1) * full_bytes / w);
  EXPECT_EQ(counters.at("reduce_scatter").calls, 2);  // the sum over rounds is one of them
  EXPECT_EQ(counters.at("reduce_scatter").sent, 2 * (w - 1) * full_bytes / w);
  EXPECT_EQ(counters.at("reduce_scatter").received, 2 * (w - 1) * full_bytes / w);
  EXPECT_EQ(counters.at("all_reduce").sent, 2 * (w - 1) * n * 4 / w);
  EXPECT_EQ(counters.at("all_reduce").received, 2 * (w - 1) * n * 4 / w);
  EXPECT_EQ(counters.at("broadcast").sent, rank() == 0 && w > 1 ? n * 4 : 0);
  EXPECT_EQ(counters.at("broadcast").received, rank() == 0 ? 0 : n * 4);
}

TEST_P(Conformance, AllocatesMemoryThatItsCollectivesCanUse) {
  constexpr std::int64_t n = 4099;
  const auto values = conformance::encode(DType::f32, values_of(rank(), n));
  const auto memory = comm().allocate(values.size());
  GetParam()->upload(memory.get(), values.data(), values.size());
  comm().all_reduce({memory.get(), n, DType::f32});
  std::vector<std::byte> got(values.size());
  GetParam()->download(got.data(), memory.get(), got.size());
  EXPECT_EQ(decode(DType::f32, got)[n - 1], expected(size(), n - 1, ReduceOp::sum));
  EXPECT_NE(comm().allocate(0), nullptr);
}

TEST_P(Conformance, RefusesArgumentsThatContradictEachOther) {
  const Array a = array(DType::f32, values_of(0, 8));
  const Array full = array(DType::f32, values_of(0, 8 * size() + 16));
  const Buffer whole{full.buffer().data, 8 * size(), DType::f32};
  EXPECT_THROW(comm().all_gather(a.buffer(), {whole.data, 8 * size() + 1, DType::f32}), RunError);
  EXPECT_THROW(comm().all_gather({a.buffer().data, 8, DType::i64}, whole), RunError);
  EXPECT_THROW(comm().all_gather({nullptr, 8, DType::f32}, whole), RunError);
  EXPECT_THROW(comm().all_gather({a.buffer().data, -1, DType::f32}, {whole.data, -size(), DType::f32}), RunError);
  EXPECT_THROW(comm().all_reduce({a.buffer().data, 8, DType::bytes}), RunError);
  EXPECT_THROW(comm().broadcast(a.buffer(), size()), RunError);
  EXPECT_THROW(comm().broadcast(a.buffer(), -1), RunError);
  auto* own = static_cast<float*>(whole.data) + 8 * rank();
  EXPECT_THROW(comm().reduce_scatter(whole, {own + 1, 8, DType::f32}), RunError);  // overlaps, but not the slot
  EXPECT_THROW(comm().reduce_scatter_add(whole, {own, 8, DType::f32}), RunError);  // the slot cannot be the sum too
  EXPECT_THROW(comm().reduce_scatter_add({whole.data, 8 * size(), DType::bf16}, {a.buffer().data, 8, DType::bf16}),
               RunError);
  comm().all_gather(a.buffer(), whole);  // and nothing was left half done
}

}  // namespace tessera::comm::conformance
