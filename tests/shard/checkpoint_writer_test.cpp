// Saves while the slices go on changing; what a rank that cannot write does to all.
#include "tessera/shard/checkpoint_writer.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <thread>

#include "shard/toy_job.hpp"
#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/core/error.hpp"

namespace tessera::shard {
namespace {

namespace fs = std::filesystem;
using testing_support::message_of;
using toy::Job;

class CheckpointWriterTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (comm->rank() == 0) own.emplace();
    root = comm::broadcast_text(*comm, own ? own->path().string() : "");
  }
  void TearDown() override { comm->barrier(); }

  static CheckpointWriterConfig config() { return {.background = GetParam()}; }
  // As a training loop does, one call a step; the pause stands for the step.
  SavedCheckpoint poll_until_saved(CheckpointWriter& writer) {
    for (int step = 0; step < 10'000; ++step) {
      if (auto saved = writer.poll()) return *saved;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ADD_FAILURE() << "never saved";
    return {};
  }
  void expect_holds(const fs::path& folder, float shift) {
    Job reader(*comm);
    load_checkpoint(folder, reader.engine, reader.optimizer, 99);
    reader.expect_marked(shift);
    EXPECT_TRUE(verify_checkpoint(folder).empty());
  }

  comm::MpiEnv env{nullptr, nullptr};
  std::unique_ptr<comm::Communicator> comm = comm::make_mpi(env);
  std::optional<testing_support::TempDir> own;
  fs::path root;
};

TEST_P(CheckpointWriterTest, SavesTheStateOfTheMomentThatBeginWasCalled) {
  Job job(*comm);
  job.mark(0);
  CheckpointWriter writer(job.engine, job.optimizer, 99, config());
  auto saved = writer.begin(3, R"({"cursor": 12})", {{root, 0}});
  EXPECT_EQ(writer.under_way(), GetParam());
  job.mark(100);  // the next step
  if (GetParam()) {
    EXPECT_TRUE(saved.empty());
    saved.push_back(poll_until_saved(writer));
  }
  ASSERT_EQ(saved.size(), 1U);
  EXPECT_EQ(saved[0].step, 3);
  EXPECT_EQ(saved[0].folders, std::vector{root / "step-3"});
  EXPECT_EQ(saved[0].bytes, read_manifest(root / "step-3").bytes);
  EXPECT_FALSE(writer.under_way());
  EXPECT_FALSE(writer.poll());
  EXPECT_FALSE(writer.finish());
  EXPECT_GT(writer.take_stall(), 0.0);
  EXPECT_EQ(writer.take_stall(), 0.0);
  expect_holds(root / "step-3", 0);
}

TEST_P(CheckpointWriterTest, ASaveThatBeginsWhileOneIsUnderWayWaitsForIt) {
  Job job(*comm);
  CheckpointWriter writer(job.engine, job.optimizer, 99, config());
  std::vector<SavedCheckpoint> saved;
  for (const int step : {1, 2, 3, 4}) {
    job.mark(static_cast<float>(step));
    for (auto& s : writer.begin(step, "{}", {{root, 2}})) saved.push_back(std::move(s));
  }
  if (auto s = writer.finish()) saved.push_back(std::move(*s));
  ASSERT_EQ(saved.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(saved[i].step, static_cast<std::int64_t>(i) + 1);
  EXPECT_EQ(list_checkpoints(root), (std::vector{root / "step-3", root / "step-4"}));
  expect_holds(root / "step-3", 3);
  expect_holds(root / "step-4", 4);
}

TEST_P(CheckpointWriterTest, OneSaveMayHaveSeveralPlacesAndIsWrittenOnce) {
  Job job(*comm);
  job.mark(7);
  CheckpointWriter writer(job.engine, job.optimizer, 99, config());
  writer.begin(5, "{}", {{root / "checkpoints", 2}, {root / "best", 1}});
  writer.finish();
  job.mark(8);
  writer.begin(6, "{}", {{root / "checkpoints", 1}});
  writer.finish();
  EXPECT_EQ(list_checkpoints(root / "checkpoints"), std::vector{root / "checkpoints" / "step-6"});
  expect_holds(root / "best" / "step-5", 7);  // stays when the other name goes
  comm->barrier();
  writer.begin(7, "{}", {{root / "checkpoints", 0}, {root / "best", 0}});
  writer.finish();
  for (const auto& entry : fs::directory_iterator(root / "best" / "step-7")) {
    struct stat status {};
    ASSERT_EQ(::stat(entry.path().c_str(), &status), 0);
    EXPECT_EQ(status.st_nlink, 2U) << entry.path();
  }
}

TEST_P(CheckpointWriterTest, AFullDiskOnOneRankIsNamedOnAllAndLeavesNothing) {
  Job job(*comm);
  job.mark(0);
  const int last = comm->size() - 1;
  CheckpointWriter writer(job.engine, job.optimizer, 99, config());
  std::string text;
  {
    std::optional<testing_support::FileSizeLimit> limit;
    if (comm->rank() == last) limit.emplace(100);
    text = message_of<RunError>([&] {
      writer.begin(3, "{}", {{root, 0}});
      poll_until_saved(writer);
    });
  }
  const std::string file = "rank-0000" + std::to_string(last) + "-of-0000" + std::to_string(comm->size());
  EXPECT_NE(text.find(file), std::string::npos) << text;
  comm->barrier();
  EXPECT_TRUE(fs::is_empty(root));
  comm->barrier();
  EXPECT_FALSE(writer.under_way());
  writer.begin(4, "{}", {{root, 0}});  // there is room again
  writer.finish();
  expect_holds(root / "step-4", 0);
}

TEST_P(CheckpointWriterTest, AFailureToPlaceItIsThrownOnAll) {
  Job job(*comm);
  if (comm->rank() == 0) testing_support::write_file(root / "best", "a file where a folder should be");
  comm->barrier();
  CheckpointWriter writer(job.engine, job.optimizer, 99, config());
  const auto text = message_of<RunError>([&] {
    writer.begin(3, "{}", {{root / "checkpoints", 0}, {root / "best", 0}});
    writer.finish();
  });
  EXPECT_NE(text.find((root / "best").string()), std::string::npos) << text;
  EXPECT_TRUE(list_checkpoints(root / "checkpoints").empty());
}

TEST_P(CheckpointWriterTest, AWriterThatGoesAwayLeavesNoHalfCheckpoint) {
  Job job(*comm);
  {
    CheckpointWriter writer(job.engine, job.optimizer, 99, config());
    writer.begin(1, "{}", {{root, 0}});
    writer.finish();
    writer.begin(2, "{}", {{root, 0}});
  }
  comm->barrier();
  for (const auto& folder : list_checkpoints(root)) EXPECT_TRUE(verify_checkpoint(folder).empty()) << folder;
  EXPECT_EQ(list_checkpoints(root).size(), GetParam() ? 1U : 2U);
}

INSTANTIATE_TEST_SUITE_P(Modes, CheckpointWriterTest, testing::Bool(),
                         [](const auto& mode) { return mode.param ? "Background" : "InPlace"; });

}  // namespace
}  // namespace tessera::shard
