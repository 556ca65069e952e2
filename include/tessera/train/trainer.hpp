#pragma once
/// Trainer: the loop of `tessera train`, from a run folder and its newest checkpoint to the exported model. Collective.
///
/// Run folder `--log_base_dir/--exp_name`: config.toml, metrics.jsonl, events.out.tfevents.*, checkpoints/step-N/,
/// best/, overlays/, losses.png, and at the end adapter/ (without LoRA non_lora_trainables.safetensors), merged/.
/// Returns ExitStatus::requeue when a signal ended the run after a checkpoint.
#include <string>

#include "tessera/comm/fabric.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/log.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/train/config.hpp"

#include <c10/core/Device.h>

namespace tessera::train {

struct TrainRequest {
  TrainConfig train;
  data::LoaderConfig loader;
  std::string val_shards;  ///< prepared folder(s) of the validation split; empty: no validation
  std::int64_t max_val_items = -1;
  bool val_count_padding = false;  ///< EvalLoader's count_padding
  std::uint64_t seed = 42;
  std::optional<std::int64_t> data_seed;  ///< of the sample order alone; absent: seed
  std::string config_toml;                ///< everything in force, kept in the run folder

  std::uint64_t order_seed() const { return data_seed ? static_cast<std::uint64_t>(*data_seed) : seed; }
};

ExitStatus run_training(const TrainRequest& request, const comm::Fabric& fabric, c10::Device device, const Log& log);

}  // namespace tessera::train
