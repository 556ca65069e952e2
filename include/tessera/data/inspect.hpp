#pragma once
/// inspect: what is in prepared shards, for people: counts, lengths, sizes, a sample as text and picture, checksums.
#include <cstdint>
#include <string>
#include <vector>

#include "tessera/core/options.hpp"

namespace tessera::data {

struct InspectConfig {
  std::string shards;            ///< folders or shards, separated by ','
  bool verify = false;           ///< compare every checksum and read every sample
  std::int64_t sample = -1;      ///< row of a sample to show; -1: a random one
  bool show = false;             ///< show a sample
  std::string output_dir = ".";  ///< where the pictures go
  std::string sheet;             ///< file of a contact sheet; empty: none
  std::int64_t sheet_samples = 24;
  std::int64_t seed = 42;  ///< of the random picks
};

void bind(Options& options, InspectConfig& config);

struct InspectReport {
  std::string text;                   ///< lines to print
  std::vector<std::string> pictures;  ///< files written
  std::vector<std::string> faults;    ///< what --verify found; empty: sound
};

/// Reads the shards and writes the pictures asked for. Not collective. Throws RequestError as Shards::open does, or for
/// a sample that is not there.
InspectReport run_inspect(const InspectConfig& config);

}  // namespace tessera::data
