#include "train/toy_lisa.hpp"

#include <optional>

#include "data/toy.hpp"
#include "support/lisa_folder.hpp"
#include "support/support.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/data/prepare.hpp"

namespace tessera::train::toy {

namespace {

namespace fs = std::filesystem;
using testing_support::TempDir;

// Of this program; on rank 0 alone it is a folder.
const fs::path& scratch_folder(comm::Communicator& comm) {
  static std::optional<TempDir> mine;
  static fs::path path;
  if (path.empty()) {
    if (comm.rank() == 0) mine.emplace();
    path = comm::broadcast_text(comm, mine ? mine->path().string() : "");
  }
  return path;
}

}  // namespace

Job::Job() : comm_(comm::make_mpi(env_)) {}

fs::path Job::fresh_folder(const std::string& name) {
  const auto folder = scratch_folder(*comm_) / name;
  comm::on_rank_zero(*comm_, [&] {
    fs::remove_all(folder);
    fs::create_directories(folder);
  });
  return folder;
}

const Folders& Job::folders() {
  static Folders made;
  if (made.scratch.empty()) {
    const auto scratch = scratch_folder(*comm_);
    made.model = scratch / "model";
    comm::on_rank_zero(*comm_, [&] {
      testing_support::write_lisa_folder(made.model, testing_support::kSmallLisa,
                                         data::toy::model_folder() / "tokenizer.model");
    });
    made.scratch = scratch;
    made.shards = prepare("small", [](const fs::path& root) { data::toy::write_small_set(root); });
  }
  return made;
}

fs::path Job::prepare(const std::string& name, const std::function<void(const fs::path&)>& write_items) {
  const auto model = folders().model;
  const auto root = fresh_folder(name + "_items");
  const auto output = scratch_folder(*comm_) / (name + "_shards");
  comm::on_rank_zero(*comm_, [&] { write_items(root); });
  auto config = data::toy::small_config(root, output);
  config.version = model.string();
  config.workers = 1;
  data::run_prepare(config, *comm_, Log());
  return output;
}

TrainConfig Job::config() {
  TrainConfig c;
  c.version = folders().model.string();
  c.precision = "fp32";
  c.random_init = true;
  c.lora_r = 4;
  c.lora_alpha = 12;
  c.out_dim = 16;
  return c;
}

LoadedModel Job::load(const TrainConfig& config, bool for_training, std::uint64_t seed) {
  return load_model(config, fabric(), c10::Device(c10::DeviceType::CPU), seed, for_training, Log());
}

at::Tensor value_of(LoadedModel& model, const std::string& name) {
  const auto param = model.layout->find(name);
  if (!param) throw std::runtime_error("the model has no " + name);
  at::Tensor out;
  model.engine->with_gathered(param->unit, true, [&] { out = param->value().detach().clone(); });
  return out;
}

}  // namespace tessera::train::toy
