#pragma once
// Which sample is number g of the training stream, as the loader's settings have it.
#include <functional>

#include "tessera/data/loader.hpp"

namespace tessera::data {

using Order = std::function<std::int64_t(std::int64_t)>;  ///< number in the stream -> row of the sample table

struct Stream {
  Order at;
  std::int64_t epoch_samples = 0;
};

/// LISA's mixture by rates, or epochs of every sample. Throws RequestError for families, rates or an order that the
/// shards cannot give.
Stream stream_of(const LoaderConfig& config, const Shards& shards, const InputSpec& spec, const StepShape& shape,
                 std::uint64_t seed);

}  // namespace tessera::data
