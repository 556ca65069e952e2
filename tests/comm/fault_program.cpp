// A small job in which one rank misbehaves as the first argument says; fault_test.cpp starts it and looks at its end.
#include <fmt/format.h>

#include <csignal>
#include <cstdio>
#include <iostream>
#include <string_view>
#include <vector>

#include "tessera/comm/flight.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/watchdog.hpp"
#include "tessera/core/error.hpp"

namespace {

using namespace tessera::comm;

void misbehave(std::string_view how) {
  if (how == "killed") std::raise(SIGKILL);
  if (how == "stopped") std::raise(SIGSTOP);
  if (how == "throws") throw tessera::RunError("disk full");
}

int work(MpiEnv& env, std::string_view how) {
  const auto comm = make_mpi(env);
  const Watchdog dog(env, {std::chrono::duration<double>(0.5), std::chrono::duration<double>(0.5)},
                     [&](const std::string& report) {
                       fmt::print(stderr, "{}\nlast collectives of rank {}:\n", report, env.rank());
                       env.flight()->dump(std::cerr);
                       env.abort(5);
                     });
  std::vector<float> full(100000, 1.0F);
  const std::int64_t n = 100000 / env.size();
  for (int i = 0; i < 20; ++i) {
    if (i == 10 && env.rank() == env.size() - 1) misbehave(how);
    comm->all_gather({full.data() + n * env.rank(), n, DType::f32}, {full.data(), n * env.size(), DType::f32});
  }
  comm->close();
  fmt::print("rank {} of {} done\n", env.rank(), env.size());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  MpiEnv env(&argc, &argv);
  try {
    return work(env, argc > 1 ? argv[1] : "");
  } catch (const std::exception& error) {
    fmt::print(stderr, "[rank {}/{}] fatal: {}\n", env.rank(), env.size(), error.what());
    std::fflush(nullptr);
    env.abort(7);
  }
}
