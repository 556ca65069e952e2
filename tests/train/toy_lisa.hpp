#pragma once
// What the tests that run a model share: a miniature LISA's folder without weights, shards to train and to validate
// on, and a job over the ranks of this program.
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "tessera/comm/fabric.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/train/config.hpp"
#include "tessera/train/model_setup.hpp"

namespace tessera::train::toy {

/// Folders that rank 0 made, once per program and removed at its end; the same paths on all ranks.
struct Folders {
  std::filesystem::path model;   ///< config.json, tokenizer, clip/; no weights
  std::filesystem::path shards;  ///< "train" and "val", of the photographs
  std::filesystem::path scratch;
};

class Job {
 public:
  Job();

  comm::Communicator& comm() noexcept { return *comm_; }
  comm::Fabric fabric() noexcept { return comm::Fabric::on_host(*comm_); }
  int rank() const noexcept { return comm_->rank(); }
  /// Collective the first time.
  const Folders& folders();
  /// A folder of this name in the scratch folder, empty before; collective.
  std::filesystem::path fresh_folder(const std::string& name);

  /// LoRA of rank 4 on the toy model, every weight drawn.
  TrainConfig config();
  LoadedModel load(const TrainConfig& config, bool for_training = true, std::uint64_t seed = 7);

  /// Prepares what `write_items(root)` (called on rank 0) lays out in ReasonSeg's layout. Collective.
  std::filesystem::path prepare(const std::string& name,
                                const std::function<void(const std::filesystem::path&)>& write_items);

 private:
  comm::MpiEnv env_{nullptr, nullptr};
  std::unique_ptr<comm::Communicator> comm_;
};

/// The whole fp32 value of a parameter. Collective.
at::Tensor value_of(LoadedModel& model, const std::string& name);

}  // namespace tessera::train::toy
