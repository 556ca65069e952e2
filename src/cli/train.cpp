#include "cli/command.hpp"
#include "cli/devices.hpp"
#include "tessera/core/error.hpp"
#include "tessera/train/trainer.hpp"

namespace tessera::cli {

int run_train(const std::vector<std::string>& args, Session& session) {
  train::TrainRequest request;
  std::int64_t seed = 42;
  bool check_schedule = false;
  Options options("tessera train", "Trains a model on prepared shards, sharded over all MPI ranks.");
  train::bind(options, request.train);
  data::bind(options, request.loader);
  options.add("val_shards", &request.val_shards, "prepared folder(s) with the validation split; empty: no validation",
              {.group = "Data"});
  options.add("max_val_items", &request.max_val_items, "validate on the first so many items; -1: all",
              {.group = "Data"});
  options.add("seed", &seed, "of initial weights, sample order and dropout", {.group = "Run", .min = 0});
  options.add("check_schedule", &check_schedule,
              "compare every collective across the ranks before it starts, and name the first difference; slow",
              {.group = "Engine"});
  if (!parse(options, args)) return 0;
  request.seed = static_cast<std::uint64_t>(seed);
  train::validate(request.train);
  if (request.loader.shards.empty()) throw RequestError("--shards is missing: the folder that `tessera prepare` wrote");

  Devices devices(session, request.train.precision, check_schedule);
  devices.watch(session, request.train.comm_timeout_s);
  request.train.precision = devices.precision();
  request.config_toml = options.dump_toml();
  const auto status = train::run_training(request, devices.fabric(), devices.device(), session.log());
  devices.close();
  return static_cast<int>(status);
}

}  // namespace tessera::cli
