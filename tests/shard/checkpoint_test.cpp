// Written on these ranks, read on these and on others (through sub-groups), damaged in every place.
#include "tessera/shard/checkpoint.hpp"

#include <ATen/ops/full_like.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <fstream>

#include "shard/toy_model.hpp"
#include "support/support.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/core/error.hpp"

namespace tessera::shard {
namespace {

namespace fs = std::filesystem;
using toy::ToyModel;

struct Job {
  explicit Job(comm::Communicator& comm, bool with_adapter = true)
      : model(with_adapter),
        engine(model.layout, comm::Fabric::on_host(comm), {}),
        optimizer(engine, {}, {{"all", 1e-3, 0.0}}, [](const nn::ParamState&) { return 0U; }) {
    LoadPolicy policy;
    policy.seed = 5;
    policy.may_initialize = [](const nn::ParamState&) { return true; };
    engine.load(toy::EmptySource(), policy);
  }
  // Values that tell tensor, position and kind of state apart, whatever the cut.
  void mark() {
    for (auto& slice : engine.trained()) {
      for (const auto& piece : slice.pieces) {
        for (std::int64_t i = 0; i < piece.count; ++i) {
          const auto where = piece.slice_begin + i;
          const float base = value(piece.tensor, piece.tensor_begin + i, slice);
          slice.master.data_ptr<float>()[where] = base;
          slice.exp_avg.data_ptr<float>()[where] = base + 0.25F;
          slice.exp_avg_sq.data_ptr<float>()[where] = base + 0.5F;
        }
      }
    }
    optimizer.set_steps(17);
  }
  void expect_marked() {
    for (auto& slice : engine.trained()) {
      for (const auto& piece : slice.pieces) {
        for (std::int64_t i = 0; i < piece.count; ++i) {
          const auto where = piece.slice_begin + i;
          const float base = value(piece.tensor, piece.tensor_begin + i, slice);
          ASSERT_EQ(slice.master.data_ptr<float>()[where], base);
          ASSERT_EQ(slice.exp_avg.data_ptr<float>()[where], base + 0.25F);
          ASSERT_EQ(slice.exp_avg_sq.data_ptr<float>()[where], base + 0.5F);
        }
      }
    }
    EXPECT_EQ(optimizer.steps(), 17);
  }
  static float value(std::size_t tensor, std::int64_t at, const TrainedSlice& slice) {
    return static_cast<float>(slice.layout->tensors()[tensor].param->name.size() * 1000 + static_cast<std::size_t>(at));
  }

  ToyModel model;
  Engine engine;
  AdamW optimizer;
};

class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    if (comm->rank() == 0) own.emplace();
    root = comm::broadcast_text(*comm, own ? own->path().string() : "");
  }
  void TearDown() override { comm->barrier(); }

  std::string error_of_load(Job& setup, std::uint64_t digest) {
    try {
      load_checkpoint(root / "step-3", setup.engine, setup.optimizer, digest);
    } catch (const RequestError& e) {
      return e.what();
    }
    return "";
  }

  comm::MpiEnv env{nullptr, nullptr};
  std::unique_ptr<comm::Communicator> comm = comm::make_mpi(env);
  std::optional<testing_support::TempDir> own;
  fs::path root;
};

TEST_F(CheckpointTest, ComesBackOnTheSameRanks) {
  Job writer(*comm);
  writer.mark();
  save_checkpoint(root, 3, writer.engine, writer.optimizer, 99, R"({"cursor": 12})");
  Job reader(*comm);
  const auto info = load_checkpoint(root / "step-3", reader.engine, reader.optimizer, 99);
  reader.expect_marked();
  EXPECT_EQ(info.step, 3);
  EXPECT_EQ(info.ranks, comm->size());
  EXPECT_EQ(info.trainer_state, R"({"cursor":12})");
  EXPECT_TRUE(verify_checkpoint(root / "step-3").empty());
}

TEST_F(CheckpointTest, ComesBackOnOneRankAndFromOneRank) {
  const auto alone = comm->split(comm->rank(), 0);
  Job writer(*comm);
  writer.mark();
  save_checkpoint(root, 3, writer.engine, writer.optimizer, 99, "{}");
  {
    Job reader(*alone);  // every rank reads the whole
    load_checkpoint(root / "step-3", reader.engine, reader.optimizer, 99);
    reader.expect_marked();
    comm->barrier();
    if (comm->rank() == 0) save_checkpoint(root / "single", 3, reader.engine, reader.optimizer, 99, "{}");
    comm->barrier();
  }
  Job back(*comm);
  load_checkpoint(root / "single" / "step-3", back.engine, back.optimizer, 99);
  back.expect_marked();
}

TEST_F(CheckpointTest, AnotherBaseIsRefused) {
  Job setup(*comm);
  save_checkpoint(root, 3, setup.engine, setup.optimizer, 99, "{}");
  EXPECT_NE(error_of_load(setup, 98).find("another base"), std::string::npos);
}

TEST_F(CheckpointTest, OtherTrainedParametersAreNamed) {
  Job setup(*comm);
  save_checkpoint(root, 3, setup.engine, setup.optimizer, 99, "{}");
  Job other(*comm, /*with_adapter=*/false);
  const auto text = error_of_load(other, 99);
  EXPECT_NE(text.find("not trained in this run: frozen.lora_A"), std::string::npos) << text;
}

TEST_F(CheckpointTest, OneFlippedByteAnywhereIsFoundAndTheFileNamed) {
  Job setup(*comm);
  setup.mark();
  save_checkpoint(root, 3, setup.engine, setup.optimizer, 99, "{}");
  for (const char* ending : {".safetensors", ".json"}) {
    const auto victim = root / "step-3" / ("rank-00000-of-0000" + std::to_string(comm->size()) + ending);
    std::string before;
    if (comm->rank() == 0) {
      before = testing_support::read_file(victim);
      std::string damaged = before;
      damaged[damaged.size() - 9] = static_cast<char>(damaged[damaged.size() - 9] ^ 1);
      testing_support::write_file(victim, damaged);
    }
    comm->barrier();
    const auto text = error_of_load(setup, 99);
    EXPECT_NE(text.find(victim.filename().string()), std::string::npos) << text;
    EXPECT_FALSE(verify_checkpoint(root / "step-3").empty());
    comm->barrier();
    if (comm->rank() == 0) testing_support::write_file(victim, before);
    comm->barrier();
  }
  EXPECT_EQ(error_of_load(setup, 99), "");
}

TEST_F(CheckpointTest, ACutFileIsNamed) {
  Job setup(*comm);
  save_checkpoint(root, 3, setup.engine, setup.optimizer, 99, "{}");
  const auto victim = root / "step-3" / ("rank-00000-of-0000" + std::to_string(comm->size()) + ".safetensors");
  if (comm->rank() == 0) fs::resize_file(victim, fs::file_size(victim) - 5);
  comm->barrier();
  const auto text = error_of_load(setup, 99);
  EXPECT_NE(text.find(victim.filename().string()), std::string::npos) << text;
  EXPECT_NE(text.find("cut short"), std::string::npos) << text;
}

TEST_F(CheckpointTest, OnlyWholeOnesAreListedAndOldOnesGo) {
  Job setup(*comm);
  for (const int step : {1, 2, 10}) save_checkpoint(root, step, setup.engine, setup.optimizer, 99, "{}");
  if (comm->rank() == 0) {
    fs::create_directories(root / ".step-11.partial");
    fs::create_directories(root / "step-12");  // no manifest: not one of ours
    auto names = [&] {
      std::string out;
      for (const auto& p : list_checkpoints(root)) out += p.filename().string() + " ";
      return out;
    };
    EXPECT_EQ(names(), "step-1 step-2 step-10 ");
    prune_checkpoints(root, 2);
    EXPECT_EQ(names(), "step-2 step-10 ");
    EXPECT_FALSE(fs::exists(root / ".step-11.partial"));
  }
}

TEST_F(CheckpointTest, AFailureOnOneRankIsThrownOnAllAndLeavesNoCheckpoint) {
  Job setup(*comm);
  const auto blocked = root / "file";
  if (comm->rank() == 0) testing_support::write_file(blocked, "in the way");
  comm->barrier();
  EXPECT_THROW(save_checkpoint(blocked, 3, setup.engine, setup.optimizer, 99, "{}"), Error);
  EXPECT_TRUE(list_checkpoints(blocked).empty());
}

}  // namespace
}  // namespace tessera::shard
