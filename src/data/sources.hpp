#pragma once
// Which readers the settings of `prepare` ask for.
#include <memory>
#include <vector>

#include "tessera/data/prepare.hpp"
#include "tessera/data/reader.hpp"

namespace tessera::data {

/// Settings with `--dataset auto` replaced by the families, and in them the sets, whose files are there; what is not
/// there is named in `left_out`. The recipe and what depends on it are filled in. Throws RequestError when there is
/// nothing at all, or a family that the recipe cannot take.
PrepareConfig with_sets_found(const PrepareConfig& config, std::vector<std::string>& left_out);

/// Throws RequestError: a family or a set that nobody reads, folders that are missing.
std::vector<std::unique_ptr<Reader>> training_readers(const PrepareConfig& config);
std::vector<std::unique_ptr<Reader>> validation_readers(const PrepareConfig& config);

}  // namespace tessera::data
