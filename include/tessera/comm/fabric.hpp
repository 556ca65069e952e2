#pragma once
/// Fabric: the communicators of one job, and its nodes. Operations of one communicator run in launch order even on
/// different streams, so gathers and reductions have one each; host-side agreement (counts, errors, texts) has its own
/// over MPI. On a CPU all may be the same object. Owns nothing.
///
/// Where the job has several nodes, each with as many ranks, there are two more groups: a weight sharded over the node
/// is gathered by `node_gather`, whose bytes never leave it; `cross_gather` joins the ranks that have the same place in
/// their nodes, which hold the same slice of such a weight. Each counts its own bytes.
#include "tessera/comm/communicator.hpp"

namespace tessera::comm {

struct Fabric {
  Communicator* control = nullptr;  ///< host memory, always MPI
  Communicator* gather = nullptr;   ///< memory of the compute device
  Communicator* reduce = nullptr;   ///< memory of the compute device
  /// The ranks of this node, ordered by rank, and those with this rank's place in their nodes, ordered by node; memory
  /// of the compute device. Both or neither are null: there is one node, or none were asked for.
  Communicator* node_gather = nullptr;
  Communicator* cross_gather = nullptr;

  int rank() const noexcept { return control->rank(); }
  int size() const noexcept { return control->size(); }
  int node() const noexcept { return cross_gather != nullptr ? cross_gather->rank() : 0; }
  int nodes() const noexcept { return cross_gather != nullptr ? cross_gather->size() : 1; }
  int node_rank() const noexcept { return node_gather != nullptr ? node_gather->rank() : rank(); }
  int node_size() const noexcept { return node_gather != nullptr ? node_gather->size() : size(); }

  /// Everything over one host communicator, as one node.
  static Fabric on_host(Communicator& comm) noexcept { return {&comm, &comm, &comm}; }
};

}  // namespace tessera::comm
