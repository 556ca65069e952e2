#pragma once
// How a unit's parameters are cut into groups, and what a group of a given form takes and moves. Pure: the engine makes
// its groups by it and the plan counts by it.
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <optional>
#include <vector>

#include "tessera/nn/param.hpp"
#include "tessera/shard/config.hpp"
#include "tessera/shard/group_layout.hpp"

namespace tessera::shard {

at::ScalarType scalar_type(ComputeType type) noexcept;

// The job's ranks: `nodes` nodes of equal size, rank r being place r % node_size of node r / node_size.
struct JobShape {
  int world = 1;
  int nodes = 1;
  int node_size() const noexcept { return world / nodes; }
};

struct GroupSpec {
  bool trained = false;
  bool fused = false;
  at::ScalarType compute = at::kFloat;  // of the gathered weights
  c10::Device device = c10::Device(c10::DeviceType::CPU);
  Placement placement = Placement::world;  // of frozen weights
  bool on_host = false;                    // the slice (frozen) or the master (trained) lies in host memory
  QuantKind quant = QuantKind::none;       // of frozen matrices
  bool double_quant = false;
  std::int64_t align = GroupLayout::kAlign;  // no slice is cut, and no tensor begins, elsewhere
  bool separate_grads = false;               // micro-batches never add up inside autograd, not even on one rank

  bool quantised() const noexcept { return quant != QuantKind::none; }
  // Of what a rank keeps, and of what a gather moves.
  at::ScalarType home_type() const noexcept { return trained ? at::kFloat : wire_type(); }
  at::ScalarType wire_type() const noexcept { return quantised() ? at::kByte : compute; }
  int parts(const JobShape& job) const noexcept;  // how many equal parts the buffer is cut into
};

struct GroupPart {
  std::vector<nn::Param> params;
  GroupSpec spec;
  std::optional<RowRange> rows{};  // of the one parameter; without: all of all
  GroupLayout layout(int world) const {
    return rows ? GroupLayout(params.at(0), *rows, world, spec.align) : GroupLayout(params, world, spec.align);
  }
};

// The groups of one unit; empty ones are left out.
struct UnitParts {
  std::vector<GroupPart> whole;   // gathered around a call of the unit: frozen, quantised, trained
  std::vector<GroupPart> blocks;  // of its row matrix, gathered one after another inside a call
};
// `row_block_bytes`: of all ranks' gathered rows at once (see row_block_bytes()).
UnitParts parts_of(const nn::Unit& unit, const UnitPolicy& policy, const EngineConfig& config,
                   std::int64_t row_block_bytes);

// How much of a row matrix is gathered at once, for every unit of the layout: no more than the largest other gather of
// frozen weights takes, so that a large vocabulary does not set the peak.
std::int64_t row_block_bytes(const nn::ModelLayout& layout, const EngineConfig& config);

// Units: bytes of one rank.
struct GroupSizes {
  std::int64_t shard = 0;           // what the rank keeps of the weights
  std::int64_t expanded = 0;        // pooled memory of quantised weights while they are used
  std::int64_t gather = 0;          // pooled memory of a gather; 0 when the weights are always there
  std::int64_t gather_traffic = 0;  // sent, and received, by one gather
  std::int64_t grads = 0;           // pooled memory of one micro-batch's gradients, compute type; 0: in place
  std::int64_t wide_grads = 0;      // the fp32 copy that a reduction of a narrower type needs
  std::int64_t reduce_traffic = 0;  // sent by one reduction
};
GroupSizes sizes_of(const GroupLayout& layout, const GroupSpec& spec, const JobShape& job);

}  // namespace tessera::shard
