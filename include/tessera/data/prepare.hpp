#pragma once
/// prepare: data sets in their original layouts to a folder of shards (datasets/FORMAT.md) with a manifest.
///
/// Each shard is made by one rank; its content depends on the data sets and the settings alone, never on the number of
/// ranks. A stopped run goes on when it is started again: shards that are whole are kept.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tessera/core/log.hpp"
#include "tessera/core/options.hpp"
#include "tessera/data/frozen_towers.hpp"
#include "tessera/data/manifest.hpp"

namespace tessera::comm {
class Communicator;
}

namespace tessera::data {

struct PrepareConfig {
  std::string dataset_dir = "./dataset";
  std::string dataset = "auto";  ///< families; auto: those of which anything is there; empty: no training samples
  std::string reason_seg_data = "ReasonSeg|train";
  std::string sem_seg_data = "ade20k||cocostuff||pascal_part||paco_lvis||mapillary";
  std::string refer_seg_data = "refclef||refcoco||refcoco+||refcocog";
  std::string vqa_data = "llava_instruct_150k";
  std::vector<std::string> data_path;     ///< files of the family llava, all of whose records count alike
  std::vector<std::string> image_folder;  ///< of each of them, or one for all
  std::string own_data;                   ///< folders of the family own
  std::string val_dataset = "auto";       ///< auto: ReasonSeg|val where it is there; empty: no validation samples
  double explanatory = 0.1;
  std::int64_t num_classes_per_sample = 3;
  std::string version;  ///< model folder whose tokenizer is used
  std::string conv_type = "llava_v1";
  std::string recipe = "auto";                   ///< auto: llava where --dataset is llava alone, else lisa
  std::optional<std::int64_t> model_max_length;  ///< absent: 512 with recipe lisa, 2048 with llava
  std::optional<bool> use_mm_start_end;          ///< absent: true with recipe lisa, false with llava
  std::string store_features;                    ///< "clip", "sam", "clip,sam"; empty: none
  std::string vision_tower, vision_pretrained, hub_dir;
  std::optional<std::int64_t> mm_vision_select_layer;
  std::string mm_vision_select_feature;
  std::string image_aspect_ratio = "square";
  std::string precision;  ///< of the towers' arithmetic; empty: the device's own
  std::string placement = "resident";
  bool part_union = false;
  double polygon_slack = 2.0;  ///< pixels
  std::string output_dir;
  std::int64_t shard_mib = 128;
  std::int64_t draws = 4;
  std::int64_t seed = 42;
  std::int64_t workers = 2;
  bool quiet = false;
  bool strict = false;
  bool check = false;
};

void bind(Options& options, PrepareConfig& config);

struct PrepareOutcome {
  Manifest manifest;
  std::int64_t shards_kept = 0;  ///< that an earlier run had made
};

/// Collective. `command_line` is recorded in the manifest. `towers`: those whose features are stored, null for none;
/// shards are then made in rounds, one a rank, whose images all ranks run together. Returns the same on every rank.
/// Throws RequestError: settings, folders, an output folder that holds something else, and with `strict` any broken
/// sample; then nothing has been written under its final name. RunError when the disk refuses.
PrepareOutcome run_prepare(const PrepareConfig& config, comm::Communicator& comm, const Log& log,
                           const std::string& command_line = "", FrozenTowers* towers = nullptr);

/// Throws RequestError for settings that cannot be carried out; run_prepare begins with it.
void check_settings(const PrepareConfig& config);
/// What --store_features asks for; no towers where it asks for nothing.
TowerRequest tower_request(const PrepareConfig& config);

}  // namespace tessera::data
