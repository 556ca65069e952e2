#include "tessera/comm/mpi_env.hpp"

#include <gtest/gtest.h>
#include <mpi.h>

namespace tessera::comm {
namespace {

TEST(MpiEnv, KnowsItsPlaceInTheJobAndOnTheHost) {
  const MpiEnv env(nullptr, nullptr);
  int rank = -1;
  int size = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  EXPECT_EQ(env.rank(), rank);
  EXPECT_EQ(env.size(), size);
  EXPECT_EQ(env.local_rank(), rank);  // tests run on one host
  EXPECT_EQ(env.local_size(), size);
  EXPECT_EQ(env.node(), 0);
  EXPECT_EQ(env.nodes(), 1);
}

TEST(MpiEnv, LeavesAnMpiItDidNotStartRunning) {
  { const MpiEnv env(nullptr, nullptr); }
  int ended = -1;
  MPI_Finalized(&ended);
  EXPECT_EQ(ended, 0);
}

}  // namespace
}  // namespace tessera::comm
