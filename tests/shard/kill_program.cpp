// Saves in a loop until it is killed; or checks what a killed one has left.
//   kill_program FOLDER run     goes on from the newest checkpoint, saves at every step, in the background
//   kill_program FOLDER check   every checkpoint there is whole, and the newest loads with the values of its step
// Every element of step N's state is N, N + 0.25 and N + 0.5 (master and moments), so a mixture of steps shows.
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "shard/toy_model.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/core/error.hpp"
#include "tessera/shard/checkpoint_writer.hpp"

namespace {

using namespace tessera;
namespace fs = std::filesystem;

struct Job {
  explicit Job(comm::Communicator& comm) : engine(make(layout), comm::Fabric::on_host(comm), {}) {
    shard::LoadPolicy policy;
    policy.may_initialize = [](const nn::ParamState&) { return true; };
    engine.load(shard::toy::NoTensors(), policy);
    engine.settle();
  }
  // A few MiB: long enough in the writing that a kill meets it there, short enough for many saves a second.
  static const nn::ModelLayout& make(nn::ModelLayout& out) {
    for (int i = 0; i < 5; ++i) {
      const auto unit = out.add_unit(fmt::format("unit{}", i));
      out.add(unit, fmt::format("unit{}.weight", i), {211, 401}, nn::Init::ones())->trainable = true;
    }
    return out;
  }
  void set(double step) {
    for (auto& s : engine.trained()) {
      s.master.fill_(step);
      s.exp_avg.fill_(step + 0.25);
      s.exp_avg_sq.fill_(step + 0.5);
    }
    optimizer.set_steps(static_cast<std::int64_t>(step));
  }
  bool holds(std::int64_t step) {
    bool good = optimizer.steps() == step;
    const auto base = static_cast<float>(step);
    for (const auto& s : engine.trained()) {
      for (const auto& piece : s.pieces) {
        for (std::int64_t i = piece.slice_begin; i < piece.slice_begin + piece.count; ++i) {
          good = good && s.master.const_data_ptr<float>()[i] == base &&
                 s.exp_avg.const_data_ptr<float>()[i] == base + 0.25F &&
                 s.exp_avg_sq.const_data_ptr<float>()[i] == base + 0.5F;
        }
      }
    }
    return good;
  }

  nn::ModelLayout layout;
  shard::Engine engine;
  shard::Optimizer optimizer{engine, {}, {{"all", 1e-3, 0.0}}, [](const nn::ParamState&) { return std::size_t{0}; }};
};

// 0 when there is none.
std::int64_t load_newest(const fs::path& root, comm::Communicator& comm, Job& job) {
  std::string newest;
  comm::on_rank_zero(comm, [&] {
    shard::tidy_checkpoints(root);
    for (const auto& folder : shard::list_checkpoints(root)) {
      for (const auto& problem : shard::verify_checkpoint(folder)) throw RunError("{}", problem);
      newest = folder.string();
    }
  });
  newest = comm::broadcast_text(comm, newest);
  if (newest.empty()) return 0;
  const auto info = shard::load_checkpoint(newest, job.engine, job.optimizer, 7);
  comm::on_every_rank(comm, [&] {
    if (newest != (root / fmt::format("step-{}", info.step)).string() || !job.holds(info.step))
      throw RunError("{} does not hold the state of its step", newest);
  });
  return info.step;
}

// Leaves its process id for whoever is to kill it, and a line for every save that it was told is in place.
[[noreturn]] void save_for_ever(const fs::path& folder, comm::Communicator& comm, Job& job) {
  std::int64_t step = load_newest(folder / "checkpoints", comm, job);
  std::ofstream saved(folder / "saved", std::ios::app);
  std::ofstream(folder / fmt::format("pid-{}", comm.rank())) << ::getpid() << "\n";
  shard::CheckpointWriter writer(job.engine, job.optimizer, 7);
  for (;;) {
    job.set(static_cast<double>(++step));
    auto done = writer.begin(step, "{}", {{folder / "checkpoints", 2}, {folder / "best", 1}});
    // Every third step waits for nothing, every third polls, every third finishes: saves end in each of the three ways.
    for (int poll = 0; step % 3 == 1 && poll < 50; ++poll) {
      if (auto s = writer.poll()) done.push_back(*s);
    }
    if (step % 3 == 2) {
      if (auto s = writer.finish()) done.push_back(*s);
    }
    for (const auto& s : done) {
      if (comm.rank() == 0) saved << s.step << std::endl;
    }
  }
}

int run(int argc, char** argv, comm::Communicator& comm) {
  if (argc != 3) throw RequestError("usage: kill_program FOLDER run|check");
  const fs::path folder = argv[1];
  Job job(comm);
  if (std::string(argv[2]) == "run") save_for_ever(folder, comm, job);
  for (const char* place : {"best", "checkpoints"}) {
    const auto step = load_newest(folder / place, comm, job);
    if (comm.rank() == 0) fmt::print("{} {}\n", place, step);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  comm::MpiEnv env(&argc, &argv);
  const auto comm = comm::make_mpi(env);
  try {
    const int status = run(argc, argv, *comm);
    comm->close();
    return status;
  } catch (const std::exception& e) {
    fmt::print(stderr, "[rank {}] {}\n", comm->rank(), e.what());
    env.abort(1);
  }
}
