#include "tessera/comm/mpi.hpp"

#include <mpi.h>

#include "comm/conformance.hpp"
#include "tessera/comm/flight.hpp"

namespace tessera::comm {
namespace {

using conformance::Conformance;
using conformance::Fixture;
using conformance::host_fixture;

std::unique_ptr<MpiEnv> env_with(std::int64_t max_message, std::int64_t segment, bool thread) {
  MpiOptions options;
  options.max_message_bytes = max_message;
  options.segment_bytes = segment;
  options.progress_thread = thread;
  return std::make_unique<MpiEnv>(nullptr, nullptr, options);
}

/// A communicator together with the environment it lives in.
Fixture fixture(const char* name, std::int64_t max_message, std::int64_t segment, bool thread) {
  auto env = std::make_shared<std::unique_ptr<MpiEnv>>();
  return host_fixture(name, [=] {
    if (!*env) *env = env_with(max_message, segment, thread);
    return make_mpi(**env);
  });
}

const Fixture kFixtures[] = {
    fixture("Plain", std::int64_t{1} << 30, std::int64_t{1} << 19, false),
    fixture("TinyMessages", 1000, 4096, false),  // the cutting that counts above 2^31 bytes need, at a small limit
    fixture("SmallSegments", std::int64_t{1} << 30, 4096, false),
    fixture("ProgressThread", std::int64_t{1} << 30, 65536, true),
};

std::vector<const Fixture*> fixtures() {
  std::vector<const Fixture*> all;
  for (const Fixture& f : kFixtures) all.push_back(&f);
  return all;
}

INSTANTIATE_TEST_SUITE_P(Mpi, Conformance, testing::ValuesIn(fixtures()), [](const auto& i) { return i.param->name; });

class Mpi : public testing::Test {
 protected:
  MpiEnv env_{nullptr, nullptr};
  std::unique_ptr<Communicator> comm_ = make_mpi(env_);
  int rank() const { return comm_->rank(); }
  int size() const { return comm_->size(); }
};

TEST_F(Mpi, SumsHalfPrecisionInFp32AndRoundsOnce) {
  // 256 + 1 + 1 + …: in bf16 (8 bits of mantissa) each single addition of 1 is lost, their sum is not.
  const std::vector<double> mine(64, rank() == 0 ? 256.0 : 1.0);
  auto data = conformance::encode(DType::bf16, mine);
  comm_->all_reduce({data.data(), 64, DType::bf16});
  const double exact = 256.0 + (size() - 1);
  EXPECT_EQ(conformance::decode(DType::bf16, data)[63],
            static_cast<double>(float_of_bf16(bf16_of_float(static_cast<float>(exact)))));
  const std::vector<double> half(64, rank() == 0 ? 2048.0 : 1.0);
  auto data16 = conformance::encode(DType::f16, half);
  comm_->all_reduce({data16.data(), 64, DType::f16});
  EXPECT_EQ(conformance::decode(DType::f16, data16)[0],
            static_cast<double>(float_of_f16(f16_of_float(static_cast<float>(2048.0 + (size() - 1))))));
}

TEST_F(Mpi, ReducesInRankOrderWhateverTheAlgorithm) {
  // 1e8, 1, -1e8, 1 in fp32: any other order of summation gives another value.
  const std::vector<double> parts{1e8, 1.0, -1e8, 1.0};
  float want = 0;
  for (int r = 0; r < size(); ++r) want += static_cast<float>(parts[static_cast<std::size_t>(r % 4)]);
  for (const std::int64_t n : {1, 600000}) {  // the exchange of small data, and the two phases
    std::vector<float> data(static_cast<std::size_t>(n),
                            static_cast<float>(parts[static_cast<std::size_t>(rank() % 4)]));
    comm_->all_reduce({data.data(), n, DType::f32});
    for (const float v : data) ASSERT_EQ(v, want);
    std::vector<float> full(static_cast<std::size_t>(n * size()),
                            static_cast<float>(parts[static_cast<std::size_t>(rank() % 4)]));
    std::vector<float> shard(static_cast<std::size_t>(n));
    comm_->reduce_scatter({full.data(), n * size(), DType::f32}, {shard.data(), n, DType::f32});
    for (const float v : shard) ASSERT_EQ(v, want);
  }
}

TEST_F(Mpi, MaximumKeepsNaN) {
  std::vector<float> data(3, static_cast<float>(rank()));
  if (rank() == size() - 1) data[1] = NAN;
  comm_->all_reduce({data.data(), 3, DType::f32}, ReduceOp::max);
  EXPECT_EQ(data[0], static_cast<float>(size() - 1));
  EXPECT_TRUE(std::isnan(data[1]));
}

TEST_F(Mpi, ProgressServesTheOtherRanks) {
  if (size() < 2) return;  // nobody to serve
  // Rank 0 never waits until the others are through: their reduction finishes by its calls of progress() alone.
  constexpr std::int64_t n = 2000003;
  std::vector<float> full(static_cast<std::size_t>(n * size()), 1.0F);
  std::vector<float> shard(static_cast<std::size_t>(n));
  const auto control = comm_->split(0, rank(), "control");
  Pending reduce =
      comm_->start_reduce_scatter({full.data(), n * size(), DType::f32}, {shard.data(), n, DType::f32}, ReduceOp::sum);
  MPI_Request told = MPI_REQUEST_NULL;
  if (rank() != 0) {
    reduce.wait();
    MPI_Ibarrier(MPI_COMM_WORLD, &told);
    MPI_Wait(&told, MPI_STATUS_IGNORE);
  } else {
    MPI_Ibarrier(MPI_COMM_WORLD, &told);
    for (int done = 0; done == 0;) {
      comm_->progress();
      MPI_Test(&told, &done, MPI_STATUS_IGNORE);
    }
    EXPECT_TRUE(reduce.test());
  }
  EXPECT_EQ(shard[n - 1], static_cast<float>(size()));
  control->close();
}

TEST_F(Mpi, RecordsEveryCollectiveInTheFlightRing) {
  float x = 1;
  comm_->all_reduce({&x, 1, DType::f32});
  comm_->barrier();
  EXPECT_FALSE(comm_->flight()->oldest_running().has_value());
  const auto entries = comm_->flight()->entries();
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(describe(entries[0]), "world: all_reduce of 1 f32 (sum), sequence 0");
  EXPECT_EQ(describe(entries[1]), "world: barrier, sequence 1");
}

TEST_F(Mpi, ClosedCommunicatorRefusesCalls) {
  comm_->close();
  comm_->close();  // twice is harmless
  float x = 1;
  EXPECT_THROW(comm_->all_reduce({&x, 1, DType::f32}), RunError);
}

}  // namespace
}  // namespace tessera::comm
