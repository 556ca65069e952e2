#include "cli/toy_run.hpp"

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

#include "support/lisa_folder.hpp"

namespace tessera::testing_support {

namespace {

namespace fs = std::filesystem;

void must(const RunResult& result, const std::string& what) {
  if (result.status != 0)
    throw std::runtime_error(what + " failed with status " + std::to_string(result.status) + ":\n" + result.output);
}

}  // namespace

ToyRun::ToyRun() {
  const fs::path source = TESSERA_SOURCE_DIR;
  must(run(std::string(TESSERA_PYTHON) + " " + (source / "launch/make_scenes.py").string() + " --out " +
           scenes().string() + " --size 64 --train 16 --train_describe 4 --val 3"),
       "make_scenes");
  write_lisa_folder(model(), kSceneLisa, source / "launch/toy/lisa/tokenizer.model");
  must(
      tessera(2, "prepare --version " + model().string() + " --dataset_dir " + scenes().string() + " --output_dir " +
                     shards().string() +
                     " --reason_seg_data 'ReasonSeg|train_names' --val_dataset 'ReasonSeg|val_names' --explanatory -1"),
      "prepare");
}

RunResult ToyRun::tessera(int ranks, const std::string& args) const {
  std::string command = "OMP_NUM_THREADS=1 ";
  if (ranks > 0) {
    command += "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun -n " + std::to_string(ranks) +
               " --oversubscribe --bind-to none ";
  }
  return run(command + std::string(TESSERA_PROGRAM) + " " + args + " </dev/null");
}

RunResult ToyRun::train(int ranks, const std::string& name, const std::string& extra) const {
  return tessera(
      ranks,
      "train --version " + model().string() + " --random_init --shards " + shards().string() + " --log_base_dir " +
          dir().string() + " --exp_name " + name +
          " --batch_size 1 --global_batch_size 12 --warmup_steps 3 --lr 1e-3 --workers 1 --model_max_length 400 " +
          extra);
}

std::map<int, double> ToyRun::metric(const std::string& name, const std::string& key) const {
  std::map<int, double> out;
  std::istringstream lines(read_file(dir() / name / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const auto object = nlohmann::json::parse(line);
    if (object.contains(key) && object[key].is_number()) out[object["step"].get<int>()] = object[key].get<double>();
  }
  return out;
}

double largest_difference(const std::map<int, double>& a, const std::map<int, double>& b) {
  double worst = -1;
  for (const auto& [step, value] : a) {
    const auto other = b.find(step);
    if (other != b.end()) worst = std::max(worst, std::abs(value - other->second) / std::max(1e-12, std::abs(value)));
  }
  if (worst < 0) throw std::runtime_error("the two runs share no step");
  return worst;
}

}  // namespace tessera::testing_support
