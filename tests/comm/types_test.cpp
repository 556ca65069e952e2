#include "tessera/comm/types.hpp"

#include <gtest/gtest.h>

#include <array>
#include <set>

namespace tessera::comm {
namespace {

constexpr std::array kTypes{DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64, DType::bytes};

TEST(CommTypes, ElementsHaveTheSizeOfWhatTheyHold) {
  EXPECT_EQ(size_of(DType::f32), sizeof(float));
  EXPECT_EQ(size_of(DType::f64), sizeof(double));
  EXPECT_EQ(size_of(DType::i64), sizeof(std::int64_t));
  EXPECT_EQ(size_of(DType::bf16), 2U);
  EXPECT_EQ(size_of(DType::f16), 2U);
  EXPECT_EQ(size_of(DType::bytes), 1U);
}

TEST(CommTypes, EveryTypeReductionAndOperationHasANameOfItsOwn) {
  std::set<std::string_view> names;
  for (const auto type : kTypes) names.insert(name_of(type));
  EXPECT_EQ(names.size(), kTypes.size());
  EXPECT_EQ(names.count("?"), 0U);
  EXPECT_EQ(name_of(DType::bf16), "bf16");

  const std::set<std::string_view> reductions{name_of(ReduceOp::sum), name_of(ReduceOp::max), name_of(ReduceOp::min)};
  EXPECT_EQ(reductions, (std::set<std::string_view>{"sum", "max", "min"}));

  const std::set<std::string_view> operations{
      name_of(Operation::all_gather), name_of(Operation::reduce_scatter), name_of(Operation::reduce_scatter_add),
      name_of(Operation::all_reduce), name_of(Operation::broadcast),      name_of(Operation::barrier),
      name_of(Operation::split)};
  EXPECT_EQ(operations, (std::set<std::string_view>{"all_gather", "reduce_scatter", "reduce_scatter_add", "all_reduce",
                                                    "broadcast", "barrier", "split"}));
}

TEST(CommTypes, ABufferThatIsOnlyReadKeepsAddressCountAndType) {
  std::array<double, 3> values{};
  const ConstBuffer read = Buffer{values.data(), 3, DType::f64};
  EXPECT_EQ(read.data, values.data());
  EXPECT_EQ(read.count, 3);
  EXPECT_EQ(read.type, DType::f64);
}

TEST(CommTypes, ACallIsDescribedByAllThatTheRanksMustAgreeOn) {
  const Call reduce{Operation::reduce_scatter, 4096, DType::f32, ReduceOp::sum};
  EXPECT_EQ(describe(reduce), "reduce_scatter of 4096 f32 (sum)");
  const auto from_two = describe({Operation::broadcast, 5, DType::i64, ReduceOp::sum, 2});
  EXPECT_NE(from_two.find("broadcast of 5 i64"), std::string::npos) << from_two;
  EXPECT_NE(from_two, describe({Operation::broadcast, 5, DType::i64, ReduceOp::sum, 1}));
}

TEST(CommTypes, CallsDifferWhenAnyPartDiffers) {
  const Call call{Operation::all_reduce, 7, DType::f32, ReduceOp::max, -1};
  EXPECT_EQ(call, (Call{Operation::all_reduce, 7, DType::f32, ReduceOp::max, -1}));
  EXPECT_NE(call, (Call{Operation::all_gather, 7, DType::f32, ReduceOp::max, -1}));
  EXPECT_NE(call, (Call{Operation::all_reduce, 8, DType::f32, ReduceOp::max, -1}));
  EXPECT_NE(call, (Call{Operation::all_reduce, 7, DType::f64, ReduceOp::max, -1}));
  EXPECT_NE(call, (Call{Operation::all_reduce, 7, DType::f32, ReduceOp::min, -1}));
  EXPECT_NE(call, (Call{Operation::all_reduce, 7, DType::f32, ReduceOp::max, 0}));
}

}  // namespace
}  // namespace tessera::comm
