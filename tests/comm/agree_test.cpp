#include "tessera/comm/agree.hpp"

#include <gtest/gtest.h>

#include "tessera/comm/mpi.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {
namespace {

class Agree : public testing::Test {
 protected:
  int rank() const { return comm_->rank(); }
  int size() const { return comm_->size(); }
  MpiEnv env_{nullptr, nullptr};
  std::unique_ptr<Communicator> comm_ = make_mpi(env_);
};

TEST_F(Agree, GathersTextsOfDifferentLengths) {
  const auto texts = gather_texts(*comm_, std::string(static_cast<std::size_t>(3 * rank()), 'a'));
  ASSERT_EQ(texts.size(), static_cast<std::size_t>(size()));
  for (int r = 0; r < size(); ++r) {
    EXPECT_EQ(texts[static_cast<std::size_t>(r)], std::string(static_cast<std::size_t>(3 * r), 'a'));
  }
  EXPECT_EQ(gather_texts(*comm_, ""), std::vector<std::string>(static_cast<std::size_t>(size())));
}

TEST_F(Agree, BroadcastsTheRootsText) {
  const int root = size() - 1;
  EXPECT_EQ(broadcast_text(*comm_, rank() == root ? "the plan" : "something else", root), "the plan");
  EXPECT_EQ(broadcast_text(*comm_, rank() == 0 ? "" : "x"), "");
}

TEST_F(Agree, TheLowestFailedRanksErrorIsThrownOnAll) {
  const int culprit = size() > 1 ? 1 : 0;
  try {
    on_every_rank(*comm_, [&] {
      if (rank() == culprit) throw RequestError("shard {} is cut short", rank());
      if (rank() > culprit) throw RunError("disk full");
    });
    FAIL() << "the error was lost";
  } catch (const RequestError& error) {
    EXPECT_EQ(error.what(), "shard " + std::to_string(culprit) + " is cut short");
    EXPECT_TRUE(error.everywhere());
  }
  on_every_rank(*comm_, [] {});  // and the group still works
}

TEST_F(Agree, RankZerosWorkFailsForAll) {
  EXPECT_THROW(on_rank_zero(*comm_, [] { throw std::runtime_error("no room"); }), RunError);
  int ran = 0;
  on_rank_zero(*comm_, [&] { ++ran; });
  EXPECT_EQ(ran, rank() == 0 ? 1 : 0);
}

}  // namespace
}  // namespace tessera::comm
