// Written on these ranks, read on these and on others (through sub-groups), damaged in every place.
#include "tessera/shard/checkpoint.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

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
  const auto text = error_of_load(setup, 98);
  EXPECT_NE(text.find("another base"), std::string::npos) << text;
  EXPECT_EQ(text.find('\n'), std::string::npos) << text;
}

TEST_F(CheckpointTest, OtherTrainedParametersAreNamed) {
  Job setup(*comm);
  save_checkpoint(root, 3, setup.engine, setup.optimizer, 99, "{}");
  Job other(*comm, /*with_adapter=*/false);
  const auto text = error_of_load(other, 99);
  EXPECT_NE(text.find("not trained in this run: frozen.lora_A"), std::string::npos) << text;
  EXPECT_EQ(text.find('\n'), std::string::npos) << text;
}

TEST_F(CheckpointTest, OneFlippedByteInAnyFileIsFoundAndTheFileNamed) {
  Job setup(*comm);
  setup.mark();
  save_checkpoint(root, 3, setup.engine, setup.optimizer, 99, R"({"cursor": 12})");
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(root / "step-3")) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  EXPECT_EQ(files.size(), 1U + 2U * static_cast<std::size_t>(comm->size()));
  for (const auto& victim : files) {
    const auto size = fs::file_size(victim);
    for (const auto at : {std::uintmax_t{0}, std::uintmax_t{9}, size / 3, size / 2, size - 9, size - 1}) {
      std::string before;
      if (comm->rank() == 0) {
        before = testing_support::read_file(victim);
        std::string damaged = before;
        damaged[at] = static_cast<char>(damaged[at] ^ 1);
        testing_support::write_file(victim, damaged);
      }
      comm->barrier();
      const auto text = error_of_load(setup, 99);
      EXPECT_NE(text.find(victim.filename().string()), std::string::npos) << victim << " byte " << at << ": " << text;
      EXPECT_EQ(text.find('\n'), std::string::npos) << text;
      if (victim.filename() != "manifest.json") {
        const auto problems = verify_checkpoint(root / "step-3");
        ASSERT_EQ(problems.size(), 1U) << victim << " byte " << at;
        EXPECT_NE(problems[0].find(victim.filename().string()), std::string::npos) << problems[0];
      }
      comm->barrier();
      if (comm->rank() == 0) testing_support::write_file(victim, before);
      comm->barrier();
    }
  }
  EXPECT_EQ(error_of_load(setup, 99), "");
}

TEST_F(CheckpointTest, TheManifestGuardsEveryByteOfItself) {
  Job setup(*comm);
  save_checkpoint(root, 3, setup.engine, setup.optimizer, 99, R"({"cursor": 12})");
  if (comm->rank() != 0) return;
  const auto file = root / "step-3" / "manifest.json";
  const auto whole = testing_support::read_file(file);
  std::string damaged = whole;
  for (std::size_t at = 0; at < whole.size(); at += at + 64 < whole.size() ? 5 : 1) {
    damaged[at] = static_cast<char>(whole[at] ^ (1 << at % 8));
    testing_support::write_file(file, damaged);
    const auto text = message_of<RequestError>([&] { read_manifest(root / "step-3"); });
    EXPECT_NE(text.find(file.string()), std::string::npos) << "byte " << at << ": " << text;
    damaged[at] = whole[at];
  }
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, whole.size() / 2, whole.size() - 1}) {
    testing_support::write_file(file, whole.substr(0, size));
    const auto text = message_of<RequestError>([&] { read_manifest(root / "step-3"); });
    EXPECT_NE(text.find(file.string()), std::string::npos) << size << " bytes: " << text;
  }
}

TEST_F(CheckpointTest, AFileCutGrownOrGoneIsNamed) {
  Job setup(*comm);
  save_checkpoint(root, 3, setup.engine, setup.optimizer, 99, "{}");
  const std::string last = "rank-0000" + std::to_string(comm->size() - 1) + "-of-0000" + std::to_string(comm->size());
  for (const std::string& name : {last + ".safetensors", last + ".json", std::string("manifest.json")}) {
    const auto victim = root / "step-3" / name;
    const std::string whole = testing_support::read_file(victim);
    comm->barrier();
    const std::vector<std::string> contents{whole.substr(0, whole.size() - 5), whole.substr(0, 3), "", whole + "x"};
    for (std::size_t i = 0; i <= contents.size(); ++i) {
      if (comm->rank() == 0) {
        if (i < contents.size()) testing_support::write_file(victim, contents[i]);
        if (i == contents.size()) fs::remove(victim);
      }
      comm->barrier();
      const auto text = error_of_load(setup, 99);
      EXPECT_NE(text.find(name), std::string::npos) << "case " << i << ": " << text;
      if (name.ends_with(".safetensors") && i < contents.size()) {
        EXPECT_NE(text.find("cut short or grown"), std::string::npos) << text;
      }
      comm->barrier();
    }
    if (comm->rank() == 0) testing_support::write_file(victim, whole);
    comm->barrier();
  }
  EXPECT_EQ(error_of_load(setup, 99), "");
}

TEST_F(CheckpointTest, OnlyWholeOnesAreListedAndOldOnesGo) {
  Job setup(*comm);
  for (const int step : {1, 2, 10, 20}) save_checkpoint(root, step, setup.engine, setup.optimizer, 99, "{}");
  if (comm->rank() != 0) return;
  fs::create_directories(root / "step-12");  // no manifest: not one of ours
  fs::create_directories(root / "step-3x");
  auto names = [&] {
    std::string out;
    for (const auto& p : list_checkpoints(root)) out += p.filename().string() + " ";
    return out;
  };
  EXPECT_EQ(names(), "step-1 step-2 step-10 step-20 ");
  prune_checkpoints(root, 20, 3);
  EXPECT_EQ(names(), "step-2 step-10 step-20 ");
  prune_checkpoints(root, 10, 2);  // the run went back to 2 and has come to 10: what is later is of another course
  EXPECT_EQ(names(), "step-2 step-10 ");
  EXPECT_TRUE(fs::exists(root / "step-12"));
}

TEST_F(CheckpointTest, WhatAKilledProcessLeftIsPutBackOrRemoved) {
  Job setup(*comm);
  for (const int step : {1, 2}) save_checkpoint(root, step, setup.engine, setup.optimizer, 99, "{}");
  if (comm->rank() != 0) return;
  fs::rename(root / "step-2", root / ".step-2.old");  // killed between the two renames of an exchange
  fs::copy(root / "step-1", root / ".step-1.old", fs::copy_options::recursive);  // killed after them
  fs::create_directories(root / ".step-7.partial");
  fs::create_directories(root / ".step-8.dying");
  fs::create_directories(root / ".git");
  tidy_checkpoints(root);
  std::vector<std::string> left;
  for (const auto& e : fs::directory_iterator(root)) left.push_back(e.path().filename().string());
  std::sort(left.begin(), left.end());
  EXPECT_EQ(left, (std::vector<std::string>{".git", "step-1", "step-2"}));
  EXPECT_TRUE(verify_checkpoint(root / "step-2").empty());
}

TEST_F(CheckpointTest, OneOfTheSameStepGivesWayToTheNewOne) {
  Job setup(*comm);
  save_checkpoint(root, 3, setup.engine, setup.optimizer, 99, R"({"try": 1})");
  save_checkpoint(root, 3, setup.engine, setup.optimizer, 99, R"({"try": 2})");
  EXPECT_EQ(read_manifest(root / "step-3").trainer_state, R"({"try":2})");
  comm->barrier();
  if (comm->rank() != 0) return;
  EXPECT_EQ(std::distance(fs::directory_iterator(root), fs::directory_iterator()), 1);
}

TEST_F(CheckpointTest, ItsDescriptionNamesWhatIsInIt) {
  Job setup(*comm);
  setup.mark();
  save_checkpoint(root, 3, setup.engine, setup.optimizer, 0x1234abcd, R"({"cursor": 12})");
  const auto text = describe_checkpoint(root / "step-3");
  for (const std::string& words :
       {std::string("step 3, 17 updates"), "written by " + std::to_string(comm->size()) + " ranks",
        std::string("digest 000000001234abcd"), std::string(R"(trainer: {"cursor":12})"),
        "rank-00000-of-0000" + std::to_string(comm->size()) + ".safetensors", std::string("frozen.lora_B"),
        std::string("[29, 3]"), std::string("6 tensors of 712 elements")}) {
    EXPECT_NE(text.find(words), std::string::npos) << "no '" << words << "' in\n" << text;
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
