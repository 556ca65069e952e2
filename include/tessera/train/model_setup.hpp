#pragma once
/// LoadedModel: a model ready to run on this job's ranks: tokenizer, shapes, engine with its slices filled.
/// What trains is settled here, from the flags. Collective.
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "tessera/adapt/lora.hpp"
#include "tessera/adapt/prefix.hpp"
#include "tessera/comm/fabric.hpp"
#include "tessera/core/log.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/text/tokenizer.hpp"
#include "tessera/train/config.hpp"
#include "tessera/train/recipe.hpp"

namespace tessera::train {

struct LoadedModel {
  std::unique_ptr<Recipe> recipe;
  bool vision_tower_trained = false;
  bool vision_tower_on_disk = false;  ///< its folder holds the weights that count, so that exports can leave it there
  text::Tokenizer tokenizer;
  std::unique_ptr<nn::ModelLayout> layout;
  std::optional<adapt::Lora> lora;
  std::optional<adapt::Prefix> prefix;
  /// Frozen weights that came from the folder of the adapter that the training starts from, and belong to it.
  std::set<const nn::ParamState*> carried;
  io::SourcePtr start;  ///< of adapters that begin in the base weights (PiSSA, OLoRA), with their matrices; else null
  std::unique_ptr<shard::Engine> engine;
  std::uint64_t frozen_digest = 0;
  shard::RunPlan plan;  ///< the engine's configuration, why it is so, and what was predicted

  /// Sizes that the data must have for this model.
  data::InputSpec input_spec(std::int64_t model_max_length) const { return recipe->input_spec(model_max_length); }
};

/// `for_training` false: nothing trains and no adapter is added (evaluation of a finished folder).
/// How the engine is configured follows from config.engine, the memory there is and the work of the largest
/// micro-batch, for which `micro_batch` is asked once tokenizer and shapes are there (on every rank, without
/// communication; it may mark units of the layout that will not run as idle); without it: one picture with one
/// conversation, one micro-batch a step. Throws RequestError naming the folder, file, tensor or flag.
LoadedModel load_model(const TrainConfig& config, const comm::Fabric& fabric, c10::Device device, std::uint64_t seed,
                       bool for_training, const Log& log,
                       const std::function<BatchShape(LoadedModel&)>& micro_batch = {});

/// The optimiser of the flags.
shard::OptimizerConfig optimizer_of(const TrainConfig& config);
/// Names of --precision. Throws RequestError.
shard::ComputeType compute_type(const std::string& precision);
/// Whether backward passes through a unit: not through the part of an image tower before the first weight or adapter
/// that trains. For plans; asked after what trains is settled.
std::function<bool(const nn::Unit&)> has_backward(const nn::ModelLayout& layout);

}  // namespace tessera::train
