#include "tessera/models/local_weights.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/tensor_file.hpp"

namespace tessera::models {
namespace {

TEST(LoadLocal, BindsWhatTheFileHolds) {
  const testing_support::TempDir dir;
  const at::Tensor a = at::randn({2, 3});
  io::write_tensors(dir / "w.safetensors", {{"a", a}, {"b", at::randn({4}).to(at::kBFloat16)}});
  nn::ModelLayout layout;
  const nn::UnitId unit = layout.add_unit("u");
  const nn::Param pa = layout.add(unit, "a", {2, 3}, {});
  const nn::Param pb = layout.add(unit, "b", {4}, {});
  pb->trainable = true;
  load_local(layout, io::SafetensorsReader(dir / "w.safetensors"));
  EXPECT_TRUE(pa->value().equal(a));
  EXPECT_FALSE(pa->value().requires_grad());
  EXPECT_TRUE(pb->value().requires_grad());
  EXPECT_EQ(pb->value().scalar_type(), at::kFloat);
}

TEST(LoadLocal, ListsEverythingThatIsMissingOrMisshapen) {
  const testing_support::TempDir dir;
  io::write_tensors(dir / "w.safetensors", {{"a", at::randn({2, 3})}});
  nn::ModelLayout layout;
  const nn::UnitId unit = layout.add_unit("u");
  layout.add(unit, "a", {3, 2}, {});
  layout.add(unit, "b", {4}, {});
  try {
    load_local(layout, io::SafetensorsReader(dir / "w.safetensors"));
    FAIL() << "no error";
  } catch (const RequestError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("'a' is [2,3]"), std::string::npos) << text;
    EXPECT_NE(text.find("'b' is missing"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace tessera::models
