#pragma once
// A fixture for tests of placement: where the ranks can be halved, two nodes of one machine's ranks.
#include <gtest/gtest.h>

#include <memory>

#include "tessera/comm/fabric.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"

namespace tessera::shard {

struct TwoNodesTest : testing::Test {
  comm::MpiEnv env{nullptr, nullptr};
  std::unique_ptr<comm::Communicator> world = comm::make_mpi(env);
  std::unique_ptr<comm::Communicator> node, cross;

  /// Collective the first time.
  comm::Fabric fabric() {
    auto f = comm::Fabric::on_host(*world);
    if (world->size() % 2 != 0) return f;
    const int half = world->size() / 2;
    if (!node) node = world->split(world->rank() / half, world->rank(), "node");
    if (!cross) cross = world->split(world->rank() % half, world->rank(), "cross");
    f.node_gather = node.get();
    f.cross_gather = cross.get();
    return f;
  }
};

}  // namespace tessera::shard
