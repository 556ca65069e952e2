// Each optimiser beside the public one, clipping by value, the average, and states in checkpoints: the same gradients
// on any number of ranks give the same weights and states. Made by tests/golden/shard/optimizers.py.
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "shard/optimizer_golden.hpp"
#include "shard/slice_states.hpp"
#include "shard/toy_model.hpp"
#include "shard/toy_training.hpp"
#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/core/error.hpp"
#include "tessera/shard/checkpoint.hpp"
#include "tessera/shard/plan.hpp"

namespace tessera::shard {
namespace {

constexpr int kSteps = 6;
constexpr std::int64_t kEvery = 14;  // of the values kept in the golden

struct Tensors {
  nn::ModelLayout layout;
  Tensors() {
    // In the order in which the script numbers them.
    const auto unit = layout.add_unit("all");
    layout.add(unit, "bias", {300}, nn::Init::zeros());
    layout.add(unit, "embed_tokens.weight", {64, 70}, nn::Init::zeros());
    layout.add(unit, "big.weight", {45, 100}, nn::Init::zeros());
    for (const auto& p : layout.params()) p->trainable = true;
  }
};

OptimizerConfig config_of(const std::string& name) {
  OptimizerConfig c{0.9, 0.95, 1e-8};
  if (name == "adamw_8bit") c.kind = OptimizerKind::adamw_8bit;
  if (name == "sgd" || name == "momentum") c.kind = OptimizerKind::sgd;
  if (name == "momentum") c.momentum = 0.9;
  if (name == "lion") c.kind = OptimizerKind::lion;
  if (name == "adamw_clipped") c.max_grad_value = 0.125;
  if (name == "adamw_average") c.ema_decay = 0.75;
  return c;
}

EngineConfig engine_of(const OptimizerConfig& c) {
  EngineConfig out;
  out.moments = c.moments();
  out.moments_8bit = c.moments_8bit();
  out.average = c.ema_decay > 0;
  return out;
}

struct Update {
  Tensors model;
  Engine engine;
  Optimizer optimizer;

  Update(comm::Communicator& comm, const OptimizerConfig& config)
      : engine(model.layout, comm::Fabric::on_host(comm), engine_of(config)),
        optimizer(engine, config, {{"all", 0.01, 0.1}}, [](const nn::ParamState&) { return 0U; }) {
    fill(&TrainedSlice::master,
         [](std::size_t tensor, std::int64_t k) { return golden::value(k, -1 - static_cast<std::int64_t>(tensor)); });
  }
  template <class Value>
  void fill(at::Tensor TrainedSlice::*field, Value&& value) {
    for (auto& slice : engine.trained()) {
      auto* to = (slice.*field).data_ptr<float>();
      for (const auto& piece : slice.pieces) {
        for (std::int64_t i = 0; i < piece.count; ++i)
          to[piece.slice_begin + i] = value(piece.tensor, piece.tensor_begin + i);
      }
    }
  }
  void steps(int first, int end) {
    const at::NoGradGuard no_grad;
    for (int step = first; step < end; ++step) {
      fill(&TrainedSlice::grad, [step](std::size_t, std::int64_t k) { return golden::value(k, step); });
      optimizer.step(1.0);
    }
  }
};

class OptimizerGolden : public testing::Test {
 protected:
  // Every owned value of a state beside the golden's. Codes must be equal; what is rounded, near.
  void compare(Update& run, const std::string& name) {
    for (auto& slice : run.engine.trained()) {
      for (std::size_t i = 0; i < slice.pieces.size(); ++i) {
        const auto& param = slice.layout->tensors()[slice.pieces[i].tensor].param->name;
        for (const auto& state : states_of(slice, i)) compare(state, name + "." + param);
      }
    }
  }
  void compare(const StatePart& state, const std::string& prefix) {
    const std::map<std::string, std::string> names{{"master", ""},
                                                   {"average", ".average"},
                                                   {"exp_avg_codes", ".state1"},
                                                   {"exp_avg_sq_codes", ".state2"},
                                                   {"exp_avg_scales", ".absmax1"},
                                                   {"exp_avg_sq_scales", ".absmax2"}};
    const auto found = names.find(state.name);
    if (found == names.end() || !file.has(prefix + found->second)) return;
    const at::Tensor want = file.read(prefix + found->second);
    const bool whole = prefix == "adamw_8bit.big.weight";
    for (std::int64_t k = state.begin; k < state.begin + state.count; ++k) {
      if (!whole && k % kEvery != 0) continue;
      const std::int64_t at = whole ? k : k / kEvery;
      ++compared;
      if (want.scalar_type() == at::kByte) {
        ASSERT_EQ(static_cast<int>(state.data.const_data_ptr<std::uint8_t>()[k - state.begin]),
                  static_cast<int>(want.const_data_ptr<std::uint8_t>()[at]))
            << prefix << " " << state.name << " at " << k;
        continue;
      }
      const double wanted = want.const_data_ptr<float>()[at];
      ASSERT_NEAR(state.data.const_data_ptr<float>()[k - state.begin], wanted, 1e-7 + 2e-6 * std::abs(wanted))
          << prefix << " " << state.name << " at " << k;
    }
  }
  std::int64_t compared_by_all() {
    env_comm->all_reduce({&compared, 1, comm::DType::i64});
    return compared;
  }

  comm::MpiEnv env{nullptr, nullptr};
  std::unique_ptr<comm::Communicator> env_comm = comm::make_mpi(env);
  golden::File file = golden::optimizers();
  std::int64_t compared = 0;
};

TEST_F(OptimizerGolden, EachOptimiserIsThePublicOne) {
  for (const char* name : {"adamw", "adamw_clipped", "adamw_average", "sgd", "momentum", "lion", "adamw_8bit"}) {
    SCOPED_TRACE(name);
    Update run(*env_comm, config_of(name));
    run.steps(0, kSteps);
    compare(run, name);
    if (HasFatalFailure()) return;
  }
  // Masters of seven runs, averages of one, all codes and scales of the coded tensor.
  EXPECT_EQ(compared_by_all(), 7 * (22 + 320) + 6 * 322 + 4500 + (22 + 320 + 322) + 2 * (4500 + 18));
}

TEST_F(OptimizerGolden, StatesAreReadBackByAnotherNumberOfRanks) {
  if (env_comm->size() == 6) return;  // six halves would be three again
  for (const char* name : {"sgd", "momentum", "lion", "adamw_8bit", "adamw_average"}) {
    SCOPED_TRACE(name);
    std::optional<testing_support::TempDir> dir;
    if (env_comm->rank() == 0) dir.emplace();
    const auto root = comm::broadcast_text(*env_comm, dir ? dir->path().string() : "");
    const int fewer = (env_comm->size() + 1) / 2;
    {
      Update before(*env_comm, config_of(name));
      before.steps(0, 3);
      save_checkpoint(root, 3, before.engine, before.optimizer, 7, "{}");
    }
    if (const auto part = toy::first_ranks(*env_comm, fewer)) {
      Update after(*part, config_of(name));
      const auto info = load_checkpoint(std::filesystem::path(root) / "step-3", after.engine, after.optimizer, 7);
      EXPECT_EQ(info.optimizer, name_of(after.optimizer.config().kind));
      after.steps(3, kSteps);
      compare(after, name);
      EXPECT_TRUE(verify_checkpoint(std::filesystem::path(root) / "step-3").empty());
      part->close();
    }
    env_comm->barrier();
  }
  EXPECT_GT(compared_by_all(), 4500 * 3);
}

TEST_F(OptimizerGolden, ACheckpointOfOtherStatesIsRefused) {
  std::optional<testing_support::TempDir> dir;
  if (env_comm->rank() == 0) dir.emplace();
  const auto root = comm::broadcast_text(*env_comm, dir ? dir->path().string() : "");
  Update plain(*env_comm, config_of("adamw")), averaged(*env_comm, config_of("adamw_average")),
      coded(*env_comm, config_of("adamw_8bit"));
  save_checkpoint(root, 1, plain.engine, plain.optimizer, 7, "{}");
  save_checkpoint(root, 2, averaged.engine, averaged.optimizer, 7, "{}");
  const auto refusal = [&](Update& run, const char* step) {
    return testing_support::message_of<RequestError>(
        [&] { load_checkpoint(std::filesystem::path(root) / step, run.engine, run.optimizer, 7); });
  };
  EXPECT_NE(refusal(coded, "step-1").find("--optim"), std::string::npos);
  EXPECT_NE(refusal(averaged, "step-1").find("leave out --ema_decay"), std::string::npos);
  EXPECT_NE(refusal(plain, "step-2").find("pass the --ema_decay"), std::string::npos);
}

TEST_F(OptimizerGolden, TheAveragesStandForTheWeightsOnlyWhileTheyAreAskedFor) {
  Update run(*env_comm, config_of("adamw_average"));
  run.steps(0, 3);
  const auto weights = toy::all_weights(run.engine);
  std::vector<float> averaged;
  {
    const AveragedWeights averages(run.engine);
    averaged = toy::all_weights(run.engine);
  }
  EXPECT_NE(averaged, weights);
  EXPECT_EQ(toy::all_weights(run.engine), weights);
  run.steps(3, kSteps);
  compare(run, "adamw_average");
}

TEST_F(OptimizerGolden, ThePlanCountsTheStatesThatAreHeld) {
  for (const char* name : {"sgd", "momentum", "adamw", "adamw_average", "adamw_8bit"}) {
    const Update run(*env_comm, config_of(name));
    PlanRequest request;
    request.world = env_comm->size();
    request.engine = engine_of(config_of(name));
    const auto planned = make_plan(run.model.layout, request).memory;
    std::int64_t held = 0, averages = 0;
    for (const auto& slice : const_cast<Update&>(run).engine.trained()) {
      for (const auto* t : {&slice.exp_avg, &slice.exp_avg_sq, &slice.coded_avg.codes, &slice.coded_avg.scales,
                            &slice.coded_avg_sq.codes, &slice.coded_avg_sq.scales}) {
        if (t->defined()) held += static_cast<std::int64_t>(t->nbytes());
      }
      if (slice.average.defined()) averages += static_cast<std::int64_t>(slice.average.nbytes());
    }
    EXPECT_EQ(planned.optimizer, held) << name;
    EXPECT_EQ(planned.average, averages) << name;
    EXPECT_EQ(run.engine.memory().optimizer, held) << name;
    EXPECT_EQ(run.engine.memory().sharded(), planned.sharded()) << name;
  }
}

}  // namespace
}  // namespace tessera::shard
