#include "tessera/comm/solo.hpp"

#include "comm/conformance.hpp"
#include "tessera/comm/flight.hpp"

namespace tessera::comm {
namespace {

using conformance::Conformance;
using conformance::Fixture;

const Fixture kFixture = conformance::host_fixture("Alone", [] { return make_solo(); });
INSTANTIATE_TEST_SUITE_P(Solo, Conformance, testing::Values(&kFixture), [](const auto& i) { return i.param->name; });

TEST(Solo, IsDoneWhenACallReturnsAndNamesItself) {
  const auto comm = make_solo("tool");
  EXPECT_EQ(comm->name(), "tool");
  EXPECT_EQ(comm->transport(), "solo");
  EXPECT_EQ(comm->size(), 1);
  const double shard = 3;
  double full = 0;
  EXPECT_FALSE(comm->start_all_gather({&shard, 1, DType::f64}, {&full, 1, DType::f64}).pending());
  EXPECT_EQ(full, 3);
  EXPECT_FALSE(comm->start_reduce_scatter_add({&shard, 1, DType::f64}, {&full, 1, DType::f64}).pending());
  EXPECT_EQ(full, 6);
  EXPECT_FALSE(comm->flight()->oldest_running().has_value());
  EXPECT_EQ(comm->flight()->entries().size(), 2U);
}

TEST(Solo, LeavesItsOwnSlotInPlace) {
  const auto comm = make_solo();
  std::vector<float> data{1, 2, 3};
  comm->all_gather({data.data(), 3, DType::f32}, {data.data(), 3, DType::f32});
  comm->reduce_scatter({data.data(), 3, DType::f32}, {data.data(), 3, DType::f32});
  EXPECT_EQ(data, (std::vector<float>{1, 2, 3}));
}

}  // namespace
}  // namespace tessera::comm
