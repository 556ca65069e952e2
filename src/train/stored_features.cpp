#include "train/stored_features.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "tessera/core/error.hpp"
#include "tessera/data/frozen_towers.hpp"

namespace tessera::train {
namespace {

using data::TowerFeatures;

bool trains(const nn::ModelLayout& layout, std::string_view tower) {
  const auto units = data::tower_units(layout, tower);
  return std::any_of(units.begin(), units.end(), [&](nn::UnitId id) {
    const auto& unit = layout.unit(id);
    return unit.adapted ||
           std::any_of(unit.params.begin(), unit.params.end(), [](const nn::Param& p) { return p->trainable; });
  });
}

std::string text(const TowerFeatures& one) {
  return fmt::format("[{}] of {}", fmt::join(one.shape, ","), one.input);
}

// Of the features that shards hold, those of towers that this model has and does not train.
std::vector<TowerFeatures> usable(const data::Shards& shards, const Recipe& recipe, const nn::ModelLayout& layout,
                                  const char* flag, const Log& log) {
  std::vector<TowerFeatures> used;
  const auto own = recipe.towers();
  for (const auto& held : shards.features()) {
    const auto mine = std::find_if(own.begin(), own.end(), [&](const auto& one) { return one.name == held.name; });
    if (mine == own.end()) continue;
    if (trains(layout, held.name)) {
      log.warn("{}: features of '{}' are not used, since that tower trains", flag, held.name);
      continue;
    }
    if (mine->shape != held.shape || mine->input != held.input) {
      const bool tiles = mine->input.find("aspect anyres") != std::string::npos;
      throw RequestError("{}: their features of '{}' are {}; this model takes {}; {}pass --stored_features false", flag,
                         held.name, text(held), text(*mine),
                         tiles ? "those of tiles are not stored: " : "prepare them again, or ");
    }
    used.push_back(held);
  }
  return used;
}

bool holds(const std::vector<TowerFeatures>& list, const std::string& name) {
  return std::any_of(list.begin(), list.end(), [&](const auto& one) { return one.name == name; });
}

}  // namespace

StoredFeatures::StoredFeatures(const data::LoaderConfig& config, const Recipe& recipe, nn::ModelLayout& layout,
                               const data::Shards& train, const data::Shards* val, const Log& log) {
  if (!config.stored_features) return;
  train_ = usable(train, recipe, layout, "--shards", log);
  if (val != nullptr) val_ = usable(*val, recipe, layout, "--val_shards", log);
  auto all = train_;
  for (const auto& one : val_) {
    const auto same = std::find_if(all.begin(), all.end(), [&](const auto& other) { return other.name == one.name; });
    if (same == all.end()) {
      all.push_back(one);
    } else if (*same != one) {
      throw RequestError("--shards and --val_shards have '{}' features of different towers", one.name);
    }
  }
  for (const auto& one : all) towers_.push_back({one, data::tower_units(layout, one.name)});
  for (const auto& tower : towers_) {
    const bool training = holds(train_, tower.what.name);
    const bool always = training && (val == nullptr || holds(val_, tower.what.name));
    log.info("{}: features come from the {}; the tower is {}, and augmentation is off for them", tower.what.name,
             training ? "shards" : "validation shards", always ? "not run" : "run for the others alone");
    if (!always) continue;
    for (const auto unit : tower.units) layout.mark_idle(unit);
  }
}

void StoredFeatures::check(const nn::ModelLayout& layout, const Recipe& recipe, comm::Communicator& comm) const {
  if (towers_.empty()) return;
  const auto weights = recipe.open_weights();
  for (const auto& tower : towers_) {
    const auto own = data::tower_digest(layout, tower.what.name, tower.units, *weights, comm);
    if (own == tower.what.tower) continue;
    throw RequestError(
        "the shards' features of '{}' were made by a tower with other weights ({:016x}) than this model's ({:016x}); "
        "prepare them again, or pass --stored_features false",
        tower.what.name, tower.what.tower, own);
  }
}

data::InputSpec StoredFeatures::with(const std::vector<TowerFeatures>& used, data::InputSpec spec) {
  for (const auto& one : used) (one.name == "sam" ? spec.stored_sam : spec.stored_clip) = one.shape;
  return spec;
}

}  // namespace tessera::train
