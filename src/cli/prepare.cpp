#include <fmt/ranges.h>

#include <cstdio>
#include <optional>

#include "cli/command.hpp"
#include "cli/devices.hpp"
#include "tessera/core/error.hpp"
#include "tessera/data/prepare.hpp"

namespace tessera::cli {
namespace {

shard::ComputeType compute_type(const std::string& precision) {
  return precision == "bf16"   ? shard::ComputeType::bf16
         : precision == "fp16" ? shard::ComputeType::f16
                               : shard::ComputeType::f32;
}

// The towers whose features are stored, on this job's devices.
struct Towers {
  Devices devices;
  data::FrozenTowers frozen;
  Towers(Session& session, const data::PrepareConfig& config)
      : devices(session, config.precision),
        frozen(data::tower_request(config), {devices.fabric(), devices.device(), compute_type(devices.precision()),
                                             config.placement == "resident", static_cast<int>(config.workers)}) {}
};

}  // namespace

int run_prepare(const std::vector<std::string>& args, Session& session) {
  data::PrepareConfig config;
  Options options(
      "tessera prepare",
      "Turns data sets in their original layouts into HDF5 shards; run it under mpirun to divide the work.");
  data::bind(options, config);
  if (!parse(options, args)) return 0;
  std::optional<Towers> towers;
  if (!config.store_features.empty()) {
    data::check_settings(config);
    towers.emplace(session, config);
    config.precision = towers->devices.precision();
    for (const auto& one : towers->frozen.features()) {
      session.log().info(
          "features of {}: [{}] in bf16 for each image, by weights {:016x}; augmentation is off for them", one.name,
          fmt::join(one.shape, ","), one.tower);
    }
  }
  const auto outcome =
      data::run_prepare(config, session.world(), session.log(),
                        fmt::format("{}", fmt::join(session.command_line(), " ")), towers ? &towers->frozen : nullptr);
  if (session.world().rank() == 0) {
    std::printf("%zu shards in %s, %lld of them kept from an earlier run\n", outcome.manifest.shards.size(),
                config.output_dir.c_str(), static_cast<long long>(outcome.shards_kept));
  }
  if (towers) towers->devices.close();
  return 0;
}

}  // namespace tessera::cli
