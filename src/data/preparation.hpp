#pragma once
// The work of a `prepare`, once it is planned: shards made on all ranks, and what is said of them.
#include <memory>
#include <string>
#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/core/log.hpp"
#include "tessera/data/plan.hpp"
#include "tessera/data/prepare.hpp"
#include "tessera/data/shard.hpp"
#include "tessera/text/conversation.hpp"
#include "tessera/text/tokenizer.hpp"

namespace tessera::data {

/// One split: its data sets and their shards.
struct Split {
  std::string name;
  std::int64_t draws = 1;
  std::vector<std::unique_ptr<Reader>> readers;
  std::vector<PlannedShard> shards;
};

/// Everything that is known before the first image is read; equal on every rank.
struct Work {
  text::Tokenizer tokenizer;
  const text::Template* form;
  ShardHeader header;  ///< without split and plan
  std::vector<Split> splits;
};

/// Collective; as run_prepare.
PrepareOutcome carry_out(const PrepareConfig& config, const Work& work, comm::Communicator& comm, const Log& log,
                         const std::string& command_line, FrozenTowers* towers);

}  // namespace tessera::data
