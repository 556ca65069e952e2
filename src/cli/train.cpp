#include "cli/command.hpp"
#include "cli/devices.hpp"
#include "tessera/core/error.hpp"
#include "tessera/train/trainer.hpp"

namespace tessera::cli {

namespace {

struct TrainFlags {
  train::TrainRequest request;
  std::int64_t seed = 42;
  bool check_schedule = false;
};

void bind(Options& options, TrainFlags& f) {
  train::bind(options, f.request.train);
  data::bind(options, f.request.loader);
  options.add(
      "val_shards", &f.request.val_shards,
      "prepared folder(s) with the validation split; with --recipe llava folders of samples that are held back; "
      "empty: no validation",
      {.group = "Data"});
  options.add("max_val_items", &f.request.max_val_items, "validate on the first so many items; -1: all",
              {.group = "Data"});
  options.add("val_count_padding", &f.request.val_count_padding,
              "samples that fill up the ranks' last round count again, as in LISA's own validation", {.group = "Data"});
  options.add("seed", &f.seed, "of initial weights, sample order and dropout", {.group = "Run", .min = 0});
  options.add("data_seed", &f.request.data_seed, "of the sample order alone, in the place of --seed",
              {.group = "Run", .min = 0});
  options.add("check_schedule", &f.check_schedule,
              "compare every collective across the ranks before it starts, and name the first difference; slow",
              {.group = "Engine"});
}

constexpr const char* kAbout = "Trains a model on prepared shards, sharded over all MPI ranks.";

// The recipe that flags or --config name, which settles the defaults of all other flags, also those that --help shows.
std::string recipe_of(std::vector<std::string> args) {
  std::erase_if(args, [](const std::string& arg) { return arg == "--help" || arg == "-h"; });
  TrainFlags flags;
  Options options("tessera train", kAbout);
  bind(options, flags);
  options.parse(args);
  return flags.request.train.recipe;
}

}  // namespace

int run_train(const std::vector<std::string>& args, Session& session) {
  TrainFlags flags;
  auto& request = flags.request;
  const auto recipe = recipe_of(args);
  train::set_recipe_defaults(request.train, recipe);
  if (recipe == "llava") {  // transformers' TrainingArguments
    request.loader.batch_size = 8;
    request.loader.grad_accumulation_steps = 1;
  }
  Options options("tessera train", kAbout);
  bind(options, flags);
  if (!parse(options, args)) return 0;
  const auto warnings = train::settle(request.train, options);
  request.seed = static_cast<std::uint64_t>(flags.seed);
  train::validate(request.train);
  if (request.loader.shards.empty()) throw RequestError("--shards is missing: the folder that `tessera prepare` wrote");

  Devices devices(session, request.train.precision, flags.check_schedule);
  devices.watch(session, request.train.comm_timeout_s);
  request.train.precision = devices.precision();
  request.config_toml = options.dump_toml();
  for (const auto& warning : warnings) {
    if (launcher_rank() == 0) session.log().warn("{}", warning);
  }
  const auto status = train::run_training(request, devices.fabric(), devices.device(), session.log());
  devices.close();
  return static_cast<int>(status);
}

}  // namespace tessera::cli
