// The shards do not depend on the number of ranks: what all ranks make together equals what one rank makes alone.
#include <gtest/gtest.h>

#include "data/toy.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/core/error.hpp"
#include "tessera/data/prepare.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

class PrepareOnRanks : public ::testing::Test {
 protected:
  PrepareOnRanks() : env_(nullptr, nullptr), comm_(comm::make_mpi(env_)) {
    if (comm_->rank() == 0) dir_.emplace();
    root_ = comm::broadcast_text(*comm_, dir_ ? dir_->path().string() : "");
    comm::on_rank_zero(*comm_, [&] { toy::write_small_set(root_ / "data"); });
  }
  ~PrepareOnRanks() override { comm_->close(); }

  PrepareConfig config(const std::string& output) const {
    auto config = toy::small_config(root_ / "data", root_ / output);
    config.shard_mib = 1;  // several shards
    return config;
  }

  comm::MpiEnv env_;
  std::unique_ptr<comm::Communicator> comm_;
  std::optional<testing_support::TempDir> dir_;
  fs::path root_;
};

TEST_F(PrepareOnRanks, WritesTheSameBytesAsOneRank) {
  const auto together = run_prepare(config("together"), *comm_, Log());
  EXPECT_TRUE(together.manifest.complete);
  EXPECT_GE(together.manifest.shards.size(), 3U);
  comm::on_rank_zero(*comm_, [&] {
    toy::prepare(config("alone"));
    const auto expected = toy::files_of(root_ / "alone");
    const auto found = toy::files_of(root_ / "together");
    ASSERT_EQ(found.size(), expected.size());
    for (const auto& [name, bytes] : expected) EXPECT_TRUE(found.at(name) == bytes) << name;
  });
}

TEST_F(PrepareOnRanks, EveryRankEndsStrictlyWhenOneMeetsABrokenSample) {
  comm::on_rank_zero(*comm_,
                     [&] { testing_support::write_file(root_ / "data/reason_seg/ReasonSeg/train/train7.json", "{"); });
  auto strict = config("strict");
  strict.strict = true;
  try {
    run_prepare(strict, *comm_, Log());
    ADD_FAILURE() << "no error on rank " << comm_->rank();
  } catch (const RequestError& error) {
    EXPECT_NE(std::string(error.what()).find("train7.json"), std::string::npos) << error.what();
  }
  comm_->barrier();
  EXPECT_FALSE(fs::exists(root_ / "strict"));
}

}  // namespace
}  // namespace tessera::data
