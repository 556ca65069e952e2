#include "tessera/shard/group_layout.hpp"

#include <gtest/gtest.h>

namespace tessera::shard {
namespace {

std::vector<nn::Param> params(const std::vector<std::int64_t>& sizes) {
  std::vector<nn::Param> out;
  for (const auto n : sizes) {
    out.push_back(std::make_shared<nn::ParamState>());
    out.back()->name = "p" + std::to_string(out.size());
    out.back()->shape = {n};
  }
  return out;
}

TEST(GroupLayout, EveryElementBelongsToExactlyOneRank) {
  for (const int world : {1, 2, 3, 4, 6, 64}) {
    const auto list = params({1, 13, 32003, 64, 7, 128 * 3});
    const GroupLayout layout(list, world);
    std::vector<std::vector<int>> owners(list.size());
    for (std::size_t i = 0; i < list.size(); ++i) owners[i].assign(static_cast<std::size_t>(list[i]->numel()), 0);
    for (int rank = 0; rank < world; ++rank) {
      for (const auto& piece : layout.pieces(rank)) {
        EXPECT_GE(piece.slice_begin, 0);
        EXPECT_LE(piece.slice_begin + piece.count, layout.slice());
        for (std::int64_t i = 0; i < piece.count; ++i)
          ++owners[piece.tensor][static_cast<std::size_t>(piece.tensor_begin + i)];
      }
    }
    for (const auto& tensor : owners) {
      for (const int n : tensor) ASSERT_EQ(n, 1) << "world " << world;
    }
    EXPECT_EQ(layout.full(), layout.slice() * world);
  }
}

TEST(GroupLayout, TensorsAreAlignedAndSlicesAreEqual) {
  const GroupLayout layout(params({5, 70, 1}), 3);
  EXPECT_EQ(layout.tensors()[1].offset % GroupLayout::kAlign, 0);
  EXPECT_EQ(layout.tensors()[2].offset, 64 + 128);
  EXPECT_EQ(layout.slice() % GroupLayout::kAlign, 0);
  EXPECT_EQ(layout.elements(), 76);
}

TEST(GroupLayout, AWiderAlignmentCutsAtItsMultiples) {
  const GroupLayout layout(params({5, 270, 1}), 3, 256);
  EXPECT_EQ(layout.tensors()[1].offset, 256);
  EXPECT_EQ(layout.tensors()[2].offset, 256 + 512);
  EXPECT_EQ(layout.slice(), 512);
  EXPECT_EQ(layout.elements(), 276);
}

TEST(GroupLayout, ARankMayOwnPaddingAlone) {
  const GroupLayout layout(params({3}), 4);
  EXPECT_EQ(layout.pieces(0).size(), 1U);
  for (int rank = 1; rank < 4; ++rank) EXPECT_TRUE(layout.pieces(rank).empty());
  EXPECT_GT(layout.slice(), 0);
}

}  // namespace
}  // namespace tessera::shard
