#include "tessera/io/model_writer.hpp"

#include <gtest/gtest.h>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"
#include "tessera/io/model_folder.hpp"

namespace tessera::io {
namespace {

namespace fs = std::filesystem;
using testing_support::message_of;
using testing_support::TempDir;
using testing_support::write_file;

const std::vector<TensorInfo> kTable{{"a", Elem::u8, {40}},
                                     {"b", Elem::f32, {10}},
                                     {"big", Elem::u8, {300}},
                                     {"c", Elem::bf16, {5, 2}},
                                     {"none", Elem::f32, {0}}};

void write_all(ModelWriter& writer, std::uint8_t value) {
  for (const auto& info : kTable) {
    const std::vector<std::uint8_t> bytes(static_cast<std::size_t>(info.numel()) * size_of(info.type), value);
    writer.write(info.name, 0, info.numel(), bytes.data());
  }
}

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> out;
  for (const auto& path : list_files(directory)) out.push_back(path.filename().string());
  return out;
}

TEST(PlanShards, FillsFilesInOrderAndGivesALargeTensorItsOwn) {
  const ShardPlan plan = plan_shards(kTable, 100);
  ASSERT_EQ(plan.files.size(), 3U);
  EXPECT_EQ(plan.files[0].name, "model-00001-of-00003.safetensors");
  EXPECT_EQ(plan.files[0].bytes, 80);
  EXPECT_EQ(plan.files[1].table.size(), 1U);
  EXPECT_EQ(plan.files[1].table[0].name, "big");
  EXPECT_EQ(plan.files[2].bytes, 20);
  EXPECT_EQ(plan.total_bytes, 400);
  EXPECT_EQ(plan_shards(kTable, 400).files.size(), 1U);
  EXPECT_EQ(plan_shards(kTable, 399).files.size(), 2U);
  EXPECT_EQ(plan_shards({}, 10).files.size(), 1U);
  EXPECT_THROW(plan_shards({kTable[0], kTable[0]}, 100), RunError);
}

TEST(ModelWriter, WritesShardsThatOpenAsOneModel) {
  TempDir dir;
  ModelWriter writer(dir / "out", kTable, 100);
  write_all(writer, 7);
  writer.commit();
  EXPECT_EQ(names_in(dir / "out"),
            (std::vector<std::string>{"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                      "model-00003-of-00003.safetensors", "model.safetensors.index.json"}));
  const auto index = read_json(dir / "out" / "model.safetensors.index.json");
  EXPECT_EQ(index.at("metadata").integer("total_size"), 400);
  EXPECT_EQ(index.at("weight_map").text("c"), "model-00003-of-00003.safetensors");
  const auto source = open_weights(dir / "out");
  ASSERT_EQ(source->tensors().size(), kTable.size());
  std::vector<std::uint8_t> out(300);
  source->read(*source->find("big"), 0, 300, out.data());
  EXPECT_EQ(out, std::vector<std::uint8_t>(300, 7));
  EXPECT_EQ(SafetensorsReader(dir / "out" / "model-00001-of-00003.safetensors").metadata(),
            (Metadata{{"format", "pt"}}));
}

TEST(ModelWriter, ReplacesAnEarlierSaveOfAnotherShardCount) {
  TempDir dir;
  for (const std::int64_t bytes : {100, 1000, 350}) {
    write_file(dir / "model-extra.safetensors", "not ours");
    ModelWriter writer(dir.path(), kTable, bytes);
    write_all(writer, static_cast<std::uint8_t>(bytes));
    writer.commit();
    const auto source = open_weights(dir.path());
    std::uint8_t out = 0;
    source->read(*source->find("a"), 0, 1, &out);
    EXPECT_EQ(out, static_cast<std::uint8_t>(bytes));
    EXPECT_TRUE(fs::exists(dir / "model-extra.safetensors"));
  }
  EXPECT_FALSE(fs::exists(dir / "model.safetensors"));
  EXPECT_FALSE(fs::exists(dir / "model-00001-of-00003.safetensors"));
}

TEST(ModelWriter, NamesATensorThatIsNotWhole) {
  TempDir dir;
  ModelWriter writer(dir.path(), kTable, 100);
  const std::vector<std::uint8_t> bytes(400);
  writer.write("a", 0, 40, bytes.data());
  writer.write("b", 0, 9, bytes.data());
  EXPECT_NE(message_of<RunError>([&] { writer.commit(); }).find("tensor 'b': 9 of 10 elements were written"),
            std::string::npos);
  EXPECT_THROW(writer.write("nobody", 0, 1, bytes.data()), RunError);
  EXPECT_FALSE(fs::exists(dir / "model.safetensors.index.json"));
}

TEST(ShardBytes, AreWrittenAsTransformersWritesThem) {
  for (const auto& [text, bytes] :
       {std::pair("5GB", std::int64_t{5'000'000'000}), std::pair("200MB", std::int64_t{200'000'000}),
        std::pair("3KiB", std::int64_t{3072}), std::pair("17", std::int64_t{17})}) {
    EXPECT_EQ(shard_bytes_from_text(text), bytes) << text;
  }
  for (const char* text : {"", "GB", "5 GB", "-1GB", "0", "5gb", "1.5GB", "9999999999GB", "99999999999999999999"}) {
    EXPECT_THROW(shard_bytes_from_text(text), RequestError) << text;
  }
}

}  // namespace
}  // namespace tessera::io
