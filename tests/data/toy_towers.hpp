#pragma once
// A miniature LISA whose vision towers have weights in a file, for the tests of stored features.
#include <filesystem>

#include "tessera/data/frozen_towers.hpp"

namespace tessera::data::toy {

/// launch/toy/lisa with the towers' weights, drawn by `seed`, in model.safetensors.
void write_model_with_towers(const std::filesystem::path& folder, std::uint64_t seed);

/// Both towers of such a folder.
TowerRequest both_towers(const std::filesystem::path& folder);

}  // namespace tessera::data::toy
