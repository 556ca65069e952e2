#pragma once
// Where DoRA begins: every magnitude is the length of its weight's row.
#include "tessera/adapt/lora.hpp"
#include "tessera/shard/engine.hpp"

namespace tessera::train {

/// Sets the magnitudes' masters from the loaded weights, which are gathered one unit at a time. Nothing to do without
/// DoRA. Collective.
void start_magnitudes(shard::Engine& engine, const adapt::Lora& lora);

}  // namespace tessera::train
