#pragma once
// The --config file: its keys in the file's order, with the line each stands in.
#include <string>
#include <utility>
#include <vector>

#include "core/option_values.hpp"

namespace tessera::detail {

struct ConfigEntry {
  std::string key;
  RawValue value;  ///< its place is "FILE:LINE: KEY"
};

/// Throws RequestError: not readable, not TOML (file and line), a table or another value no option can take.
std::vector<ConfigEntry> read_config(const std::string& path);

}  // namespace tessera::detail
