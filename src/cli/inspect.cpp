#include <cstdio>

#include "cli/command.hpp"
#include "tessera/core/error.hpp"
#include "tessera/data/inspect.hpp"

namespace tessera::cli {

int run_inspect(const std::vector<std::string>& args, Session&) {
  data::InspectConfig config;
  Options options("tessera inspect", "Says what prepared shards hold: counts, lengths, sizes, samples, checksums.");
  data::bind(options, config);
  if (!parse(options, args)) return 0;
  const auto report = data::run_inspect(config);
  std::printf("%s", report.text.c_str());
  if (!report.faults.empty()) {
    throw RequestError("{} faults; the first: {}", report.faults.size(), report.faults.front());
  }
  return 0;
}

}  // namespace tessera::cli
