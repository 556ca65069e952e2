#pragma once
// Which readers the settings of `prepare` ask for.
#include <memory>
#include <vector>

#include "tessera/data/prepare.hpp"
#include "tessera/data/reader.hpp"

namespace tessera::data {

/// Throws RequestError: a family or a set that nobody reads, folders that are missing.
std::vector<std::unique_ptr<Reader>> training_readers(const PrepareConfig& config);
std::vector<std::unique_ptr<Reader>> validation_readers(const PrepareConfig& config);

}  // namespace tessera::data
