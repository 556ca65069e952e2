#pragma once
#include <fmt/format.h>

#include <cstdio>
#include <exception>

#include "tessera/comm/mpi_env.hpp"

namespace tessera::bench {

/// Runs a measurement on every rank of the job; a rank that fails ends all of them.
template <class Measure>
void run_job(const comm::MpiOptions& options, Measure&& measure) {
  comm::MpiEnv env(nullptr, nullptr, options);
  try {
    measure(env);
  } catch (const std::exception& error) {
    fmt::print(stderr, "[rank {}/{}] error: {}\n", env.rank(), env.size(), error.what());
    env.abort(1);
  }
}

}  // namespace tessera::bench
