#pragma once
/// The transport of one rank: a group of this process alone, without MPI. For tools and tests that never leave it.
#include <memory>
#include <string_view>

#include "tessera/comm/communicator.hpp"

namespace tessera::comm {

/// Host memory. Every collective is complete when its start returns.
std::unique_ptr<Communicator> make_solo(std::string_view name = "solo");

}  // namespace tessera::comm
