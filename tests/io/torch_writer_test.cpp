// What it writes is read here; that torch.load reads it too, python_formats_test.py shows.
#include "tessera/io/torch_writer.hpp"

#include <gtest/gtest.h>

#include <array>

#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/torch_file.hpp"

namespace tessera::io {
namespace {

using testing_support::TempDir;

TEST(TorchFileWriter, WritesWhatTheReaderReads) {
  const TempDir dir;
  const std::array<float, 6> matrix{1, -2, 3, 4.5F, 0, 1e-20F};
  const std::array<std::int64_t, 2> ids{-7, std::int64_t{1} << 40};
  {
    TorchFileWriter writer(dir / "state.bin");
    writer.write({"model.w", Elem::f32, {2, 3}}, matrix.data());
    writer.write({"größe", Elem::i64, {2}}, ids.data());
    writer.write({"none", Elem::bf16, {0, 4}}, ids.data());
    EXPECT_FALSE(std::filesystem::exists(dir / "state.bin"));
    writer.commit();
  }
  const TorchFileReader reader(dir / "state.bin");
  ASSERT_EQ(reader.tensors().size(), 3U);
  const auto* w = reader.find("model.w");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->shape, (std::vector<std::int64_t>{2, 3}));
  std::array<float, 6> got{};
  reader.read(*w, 0, 6, got.data());
  EXPECT_EQ(got, matrix);
  std::array<std::int64_t, 2> got_ids{};
  reader.read(*reader.find("größe"), 0, 2, got_ids.data());
  EXPECT_EQ(got_ids, ids);
  EXPECT_EQ(reader.find("none")->numel(), 0);
}

TEST(TorchFileWriter, WithoutCommitThereIsNoFile) {
  const TempDir dir;
  const float one = 1;
  {
    TorchFileWriter writer(dir / "state.bin");
    writer.write({"w", Elem::f32, {1}}, &one);
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(TorchFileWriter, RefusesTypesThatItDoesNotWrite) {
  const TempDir dir;
  TorchFileWriter writer(dir / "state.bin");
  const double one = 1;
  EXPECT_THROW(writer.write({"w", Elem::f64, {1}}, &one), RunError);
}

}  // namespace
}  // namespace tessera::io
