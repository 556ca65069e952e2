// Runs on as many ranks as this program was started with.
#include "tessera/comm/fabric.hpp"

#include <gtest/gtest.h>
#include <mpi.h>

#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"

namespace tessera::comm {
namespace {

class FabricTest : public testing::Test {
 protected:
  MpiEnv env{nullptr, nullptr};
  std::unique_ptr<Communicator> comm = make_mpi(env);
};

TEST_F(FabricTest, OnAHostOneCommunicatorHasAllThreeRoles) {
  const auto fabric = Fabric::on_host(*comm);
  EXPECT_EQ(fabric.control, comm.get());
  EXPECT_EQ(fabric.gather, comm.get());
  EXPECT_EQ(fabric.reduce, comm.get());
}

TEST_F(FabricTest, RankAndSizeAreThoseOfTheJob) {
  int rank = -1, size = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const auto fabric = Fabric::on_host(*comm);
  EXPECT_EQ(fabric.rank(), rank);
  EXPECT_EQ(fabric.size(), size);
}

TEST_F(FabricTest, IsOneNodeUnlessItHasTheGroupsOfSeveral) {
  const auto fabric = Fabric::on_host(*comm);
  EXPECT_EQ(fabric.nodes(), 1);
  EXPECT_EQ(fabric.node(), 0);
  EXPECT_EQ(fabric.node_size(), comm->size());
  EXPECT_EQ(fabric.node_rank(), comm->rank());
}

TEST_F(FabricTest, NodesAreThoseOfTheirGroups) {
  const auto node = comm->split(comm->rank(), 0, "node");  // a node for every rank
  const auto cross = comm->split(0, comm->rank(), "cross");
  const Fabric fabric{comm.get(), comm.get(), comm.get(), node.get(), cross.get()};
  EXPECT_EQ(fabric.nodes(), comm->size());
  EXPECT_EQ(fabric.node(), comm->rank());
  EXPECT_EQ(fabric.node_size(), 1);
  EXPECT_EQ(fabric.node_rank(), 0);
  cross->close();
  node->close();
}

TEST_F(FabricTest, RankAndSizeAreTheControlGroupsWhateverTheOthersAre) {
  const auto alone = comm->split(comm->rank(), 0, "alone");
  const Fabric fabric{comm.get(), alone.get(), alone.get()};
  EXPECT_EQ(fabric.rank(), comm->rank());
  EXPECT_EQ(fabric.size(), comm->size());
  alone->close();
}

}  // namespace
}  // namespace tessera::comm
