#pragma once
// Vision towers whose outputs the shards hold: which of them a run does without, and that they are this model's own.
#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/core/log.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/data/shards.hpp"
#include "tessera/nn/param.hpp"
#include "tessera/train/recipe.hpp"

namespace tessera::train {

class StoredFeatures {
 public:
  StoredFeatures() = default;
  /// After what trains is settled. Towers that neither training nor validation (`val` may be null) runs are marked
  /// idle. Says what is used, and what is not and why. No communication. Throws RequestError where the shards' features
  /// are made in another way than this model takes.
  StoredFeatures(const data::LoaderConfig& config, const Recipe& recipe, nn::ModelLayout& layout,
                 const data::Shards& train, const data::Shards* val, const Log& log);

  /// Collective: throws RequestError on every rank unless the features are of this model's weights.
  void check(const nn::ModelLayout& layout, const Recipe& recipe, comm::Communicator& comm) const;

  data::InputSpec for_training(data::InputSpec spec) const { return with(train_, std::move(spec)); }
  data::InputSpec for_validation(data::InputSpec spec) const { return with(val_, std::move(spec)); }

 private:
  struct Tower {
    data::TowerFeatures what;
    std::vector<nn::UnitId> units;
  };
  static data::InputSpec with(const std::vector<data::TowerFeatures>& used, data::InputSpec spec);

  std::vector<data::TowerFeatures> train_, val_;
  std::vector<Tower> towers_;  ///< of train_ and val_
};

}  // namespace tessera::train
