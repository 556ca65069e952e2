#pragma once
/// Recipe: a family of models as the trainer sees it: which folder it comes from, what of it trains, what its loss is
/// and how a trained one is described. Not collective unless said; made on every rank from the same flags.
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "tessera/adapt/lora.hpp"
#include "tessera/data/collate.hpp"
#include "tessera/io/sources.hpp"
#include "tessera/models/lisa.hpp"
#include "tessera/models/llava.hpp"
#include "tessera/nn/runner.hpp"
#include "tessera/shard/optimizer.hpp"
#include "tessera/text/tokenizer.hpp"
#include "tessera/train/config.hpp"
#include "tessera/train/workload.hpp"

namespace tessera::train {

/// One micro-batch, of the family's own form.
using Batch = std::variant<models::LisaBatch, models::LlavaBatch>;

struct LossOptions {
  models::LossWeights weights;
  std::optional<models::LossScale> scale;  ///< absent: the micro-batch's own counts
};

/// fp32 scalars; `loss` carries the graph and has the weights in. What a family has not is 0.
struct StepLosses {
  at::Tensor loss, ce_loss, mask_bce_loss, mask_dice_loss, mask_loss;
};

/// Parameters that share a rate and a decay. Rates are the peaks, which the schedule multiplies.
struct ParamGroups {
  std::vector<shard::ParamGroup> groups;
  std::function<std::size_t(const nn::ParamState&)> group_of;
};

class Recipe {
 public:
  virtual ~Recipe() = default;
  /// Adds the model's units, shapes alone. Once.
  virtual void build(nn::ModelLayout& layout) = 0;
  virtual text::Tokenizer load_tokenizer() const = 0;
  /// All weights under the layout's names.
  virtual io::SourcePtr open_weights() const = 0;
  /// The layout's name for a base weight that other programs' files name, an adapter's for one; nothing: not part of
  /// it.
  virtual std::optional<std::string> layout_name(const std::string& name) const = 0;
  /// Weights that the files of a base need not hold and that are then drawn.
  virtual bool may_be_new(const nn::ParamState& param) const = 0;
  /// The layers that get adapters; nothing: none do.
  virtual std::optional<adapt::LoraConfig> adapters(const nn::ModelLayout& layout) const = 0;
  /// Settles what trains; after the adapters are on.
  virtual void mark_trained(nn::ModelLayout& layout) const = 0;
  /// Of what trains; none is empty.
  virtual ParamGroups param_groups(const nn::ModelLayout& layout) const = 0;
  virtual data::InputSpec input_spec(std::int64_t model_max_length) const = 0;
  /// The vision towers whose features shards may hold, without their digests.
  virtual std::vector<data::TowerFeatures> towers() const = 0;
  virtual shard::Workload workload(const nn::ModelLayout& layout, const BatchShape& shape,
                                   std::int64_t element) const = 0;
  /// Collective when the runner is. Throws RunError for a batch of another family.
  virtual StepLosses forward(const Batch& batch, nn::UnitRunner& runner, const nn::ForwardContext& ctx,
                             const LossOptions& options) const = 0;
  /// The model whose masks a validation scores; null where there are none.
  virtual const models::LisaModel* segments() const { return nullptr; }
  /// config.json of what was trained; where its weights are of another type or its tower elsewhere, the caller says so.
  virtual nlohmann::json exported_config() const = 0;

  /// Is the model in transformers' form? Its files and, in memory, its modules then have names of their own for what
  /// the layout has; both throw RunError for what they have not.
  virtual bool transformers_form() const { return false; }
  virtual std::string file_name(const std::string& name) const { return name; }
  virtual std::string module_name(const std::string& name) const { return name; }

  /// The folder of the model, and of its vision tower; that is empty where config.json names a built-in one.
  virtual const std::filesystem::path& folder() const = 0;
  virtual const std::filesystem::path& tower_folder() const = 0;
};

/// By config.recipe. Throws RequestError naming the folder, file or flag.
std::unique_ptr<Recipe> make_recipe(const TrainConfig& config);

/// LISA's LoRA from its flags; `targets` is a comma list of substrings.
adapt::LoraConfig lora_config(std::int64_t rank, double alpha, double dropout, const std::string& targets);

}  // namespace tessera::train
