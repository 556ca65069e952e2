#include "tessera/io/tensor_file.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

using testing_support::TempDir;

TEST(TensorFile, GivesBackEveryTypeAndStride) {
  TempDir dir;
  TensorMap tensors;
  const at::Tensor base = at::arange(24, at::kFloat).reshape({2, 3, 4});
  for (const auto type : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble, at::kLong, at::kInt, at::kShort, at::kChar,
                          at::kByte, at::kBool}) {
    tensors[c10::toString(type)] = base.to(type);
  }
  tensors["strided"] = base.permute({2, 0, 1});
  tensors["scalar"] = at::zeros({}, at::kFloat).fill_(2.5);
  tensors["empty"] = at::empty({0, 3}, at::kFloat);
  write_tensors(dir / "t.safetensors", tensors, {{"note", "x"}});
  const TensorMap back = read_tensors(dir / "t.safetensors");
  ASSERT_EQ(back.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    ASSERT_TRUE(back.contains(name)) << name;
    EXPECT_EQ(back.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(back.at(name), tensor)) << name;
  }
  EXPECT_EQ(SafetensorsReader(dir / "t.safetensors").metadata().at("note"), "x");
}

TEST(TensorFile, NamesATensorThatIsNotThereAndATypeTheFormatLacks) {
  TempDir dir;
  write_tensors(dir / "t.safetensors", {{"a", at::zeros({2}, at::kFloat)}});
  const SafetensorsReader reader(dir / "t.safetensors");
  EXPECT_EQ(read_tensor(reader, "a").numel(), 2);
  EXPECT_THROW(read_tensor(reader, "b"), RequestError);
  EXPECT_THROW(write_tensors(dir / "u", {{"c", at::zeros({2}, at::kComplexFloat)}}), RunError);
}

}  // namespace
}  // namespace tessera::io
