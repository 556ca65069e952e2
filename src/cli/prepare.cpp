#include <fmt/ranges.h>

#include <cstdio>

#include "cli/command.hpp"
#include "tessera/data/prepare.hpp"

namespace tessera::cli {

int run_prepare(const std::vector<std::string>& args, Session& session) {
  data::PrepareConfig config;
  Options options(
      "tessera prepare",
      "Turns data sets in their original layouts into HDF5 shards; run it under mpirun to divide the work.");
  data::bind(options, config);
  if (!parse(options, args)) return 0;
  const auto outcome = data::run_prepare(config, session.world(), session.log(),
                                         fmt::format("{}", fmt::join(session.command_line(), " ")));
  if (session.world().rank() == 0) {
    std::printf("%zu shards in %s, %lld of them kept from an earlier run\n", outcome.manifest.shards.size(),
                config.output_dir.c_str(), static_cast<long long>(outcome.shards_kept));
  }
  return 0;
}

}  // namespace tessera::cli
