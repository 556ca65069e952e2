// How fast a checkpoint is written beside `dd` with fsync on the same disk, and what it costs the steps meanwhile.
//   mpirun -n 2 build/bench_checkpoint FOLDER [ROUNDS=5]
// State and traffic are those of a LLaMA of hidden 512, 8 layers, inner 1376, vocabulary 32000, everything trained: 58
// million parameters, 0.7 GB a checkpoint. A step has that model's matrix products on 512 tokens a rank, AdamW and the
// engine's gathers and reductions; attention between tokens is left out, which changes neither. Each round: dd, a save
// with nothing beside it, four steps, a save with steps beside it until it is in place. Medians.
#include <ATen/Tensor.h>
#define AT_PER_OPERATOR_HEADERS  // or the operators bring every function along
#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/silu.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/no_tensors.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/core/file.hpp"
#include "tessera/shard/checkpoint_writer.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/shard/optimizer.hpp"

namespace {

using namespace tessera;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kVocab = 32000, kHidden = 512, kInner = 1376, kLayers = 8, kTokens = 512;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> v) {
  if (v.empty()) throw std::runtime_error("nothing was measured");
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

struct Model {
  struct Layer {
    nn::UnitId unit;
    nn::Param q, k, v, o, gate, up, down;
  };
  nn::ModelLayout layout;
  nn::UnitId embed, out;
  nn::Param table, head;
  std::vector<Layer> layers;

  Model() {
    embed = layout.add_unit("embed");
    table = add(embed, "embed", kVocab, kHidden);
    for (std::int64_t i = 0; i < kLayers; ++i) {
      const auto u = layout.add_unit(fmt::format("layer{}", i));
      auto named = [&](const char* name, std::int64_t rows, std::int64_t columns) {
        return add(u, fmt::format("layer{}.{}", i, name), rows, columns);
      };
      layers.push_back({u, named("q", kHidden, kHidden), named("k", kHidden, kHidden), named("v", kHidden, kHidden),
                        named("o", kHidden, kHidden), named("gate", kInner, kHidden), named("up", kInner, kHidden),
                        named("down", kHidden, kInner)});
    }
    out = layout.add_unit("out");
    head = add(out, "head", kVocab, kHidden);
  }
  nn::Param add(nn::UnitId unit, const std::string& name, std::int64_t rows, std::int64_t columns) {
    auto p = layout.add(unit, name, {rows, columns}, nn::Init::fan_in(columns));
    p->trainable = true;
    return p;
  }
  at::Tensor loss(const at::Tensor& ids_T, nn::UnitRunner& runner) const {
    auto x = runner.run(embed, {ids_T}, [&](const nn::Tensors& in) -> nn::Tensors {
      return {at::embedding(table->value(), in[0])};
    })[0];
    for (const auto& l : layers) {
      x = runner.run(l.unit, {x}, [&](const nn::Tensors& in) -> nn::Tensors {
        const auto& h = in[0];
        const auto mixed = at::linear(h, l.q->value()) * at::linear(h, l.k->value()) + at::linear(h, l.v->value());
        const auto y = h + at::linear(mixed, l.o->value());
        const auto inner = at::silu(at::linear(y, l.gate->value())) * at::linear(y, l.up->value());
        return {y + at::linear(inner, l.down->value())};
      })[0];
    }
    return runner.run(out, {x, ids_T}, [&](const nn::Tensors& in) -> nn::Tensors {
      return {at::cross_entropy_loss(at::linear(in[0], head->value()), in[1])};
    })[0];
  }
};

class Bench {
 public:
  Bench(comm::Communicator& comm, fs::path folder)
      : comm_(comm), folder_(std::move(folder)), engine_(model_.layout, comm::Fabric::on_host(comm), {}) {
    shard::LoadPolicy policy;
    policy.may_initialize = [](const nn::ParamState&) { return true; };
    engine_.load(testing_support::NoTensors(), policy);
    engine_.settle();
    ids_ = at::randint(kVocab, {kTokens}, at::TensorOptions().dtype(at::kLong));
  }

  void run(int rounds) {
    step();
    step();
    for (int i = 0; i < rounds; ++i) round();
    if (comm_.rank() != 0) return;
    const double gb = static_cast<double>(bytes_) / 1e9;
    const auto speed = [&](const char* what, double s) {
      fmt::print("{:<28} {:6.3f} s {:6.2f} GB/s   of dd {:.2f}\n", what, s, gb / s, median(dd_) / s);
    };
    fmt::print("{} ranks, {:.3f} GB a checkpoint, {} rounds\n", comm_.size(), gb, rounds);
    speed("dd conv=fsync", median(dd_));
    speed("save, nothing beside", median(alone_));
    speed("save, steps beside", median(beside_));
    fmt::print("step alone {:.3f} s, while a save is under way {:.3f} s ({} steps): ratio {:.3f}\n", median(step_),
               median(slowed_), slowed_.size(), median(slowed_) / median(step_));
    fmt::print("a save holds up training for {:.3f} s (first {:.3f} s), of which {:.3f} GB a rank are copied\n",
               median(stall_), stall_.front(), gb / comm_.size());
  }

 private:
  double agreed(double s) {
    comm_.all_reduce({&s, 1, comm::DType::f64}, comm::ReduceOp::max);
    return s;
  }
  double step() {
    comm_.barrier();
    const auto start = Clock::now();
    engine_.begin_step();
    engine_.begin_pass(shard::Pass::train);
    engine_.backward(model_.loss(ids_, engine_));
    engine_.end_pass();
    engine_.reduce_held();
    optimizer_.step(1.0);
    engine_.end_step();
    return agreed(seconds_since(start));
  }
  void begin(std::int64_t number) {
    const auto start = Clock::now();
    writer_.begin(number, "{}", {{folder_, 1}});
    stall_.push_back(agreed(seconds_since(start)));
  }
  void round() {
    begin(++saves_);
    const auto saved = writer_.finish();
    alone_.push_back(saved->write_s);
    bytes_ = saved->bytes;
    dd_.push_back(dd());
    for (int i = 0; i < 4; ++i) step_.push_back(step());
    begin(++saves_);
    for (;;) {
      slowed_.push_back(step());
      if (const auto done = writer_.poll()) {
        beside_.push_back(done->write_s);
        slowed_.pop_back();  // in this one the files were whole: only their folder was named
        return;
      }
    }
  }
  double dd() {
    double s = 0;
    if (comm_.rank() == 0) {
      const auto file = (folder_ / "dd").string();
      const auto start = Clock::now();
      const auto command = fmt::format("dd if=/dev/zero of='{}' bs=1M count={} conv=fsync status=none", file,
                                       (bytes_ + (1 << 20) - 1) >> 20);
      if (std::system(command.c_str()) != 0) throw std::runtime_error("dd failed");
      s = seconds_since(start);
      fs::remove(file);
    }
    return agreed(s);
  }

  comm::Communicator& comm_;
  fs::path folder_;
  Model model_;
  shard::Engine engine_;
  shard::Optimizer optimizer_{engine_, {}, {{"all", 1e-4, 0.0}}, [](const nn::ParamState&) { return std::size_t{0}; }};
  shard::CheckpointWriter writer_{engine_, optimizer_, 0};
  at::Tensor ids_;
  std::int64_t saves_ = 0, bytes_ = 0;
  std::vector<double> dd_, alone_, beside_, step_, slowed_, stall_;
};

}  // namespace

int main(int argc, char** argv) {
  comm::MpiEnv env(&argc, &argv);
  if (argc < 2) {
    fmt::print(stderr, "usage: bench_checkpoint FOLDER [ROUNDS]\n");
    return 2;
  }
  const auto comm = comm::make_mpi(env);
  if (comm->rank() == 0) make_directories(argv[1]);
  comm->barrier();
  Bench(*comm, argv[1]).run(argc > 2 ? std::atoi(argv[2]) : 5);
  comm->close();
  return 0;
}
