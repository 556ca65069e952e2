#include "tessera/io/safetensors.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

namespace fs = std::filesystem;
using testing_support::FileSizeLimit;
using testing_support::message_of;
using testing_support::TempDir;
using testing_support::write_file;

std::string with_length(const std::string& header, std::uint64_t length, const std::string& data) {
  std::string file(8, '\0');
  for (int i = 0; i < 8; ++i) file[static_cast<std::size_t>(i)] = static_cast<char>(length >> (8 * i));
  return file + header + data;
}

/// What the reader says of a file with this header and `data_bytes` zeros behind it.
std::string complaint(const std::string& header, std::size_t data_bytes) {
  const TempDir dir;
  write_file(dir / "x.safetensors", with_length(header, header.size(), std::string(data_bytes, '\0')));
  return message_of<RequestError>([&] { SafetensorsReader reader(dir / "x.safetensors"); });
}

::testing::AssertionResult says(const std::string& message, const std::string& part) {
  if (message.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "\"" << message << "\" lacks \"" << part << "\"";
}

TEST(Safetensors, GivesBackWhatWasWrittenInPiecesAndAnyOrder) {
  TempDir dir;
  std::vector<float> a(6);
  std::iota(a.begin(), a.end(), 1.5F);
  const std::vector<std::uint8_t> b{7, 8, 9};
  const double scalar = 0.1;
  {
    SafetensorsWriter writer(
        dir / "m.safetensors",
        {{"b", Elem::u8, {3}}, {"z/ü\"", Elem::f32, {2, 3}}, {"empty", Elem::f16, {0, 5}}, {"s", Elem::f64, {}}},
        {{"format", "pt"}, {"note", "ä\n"}});
    writer.write("b", 1, 2, b.data() + 1);
    writer.write("z/ü\"", 0, 4, a.data());
    writer.write("s", 0, 1, &scalar);
    writer.write("z/ü\"", 4, 2, a.data() + 4);
    writer.write("b", 0, 1, b.data());
    EXPECT_FALSE(fs::exists(dir / "m.safetensors"));
    writer.commit();
  }
  const SafetensorsReader reader(dir / "m.safetensors");
  EXPECT_EQ(reader.metadata(), (Metadata{{"format", "pt"}, {"note", "ä\n"}}));
  ASSERT_EQ(reader.tensors().size(), 4U);
  EXPECT_EQ(reader.tensors()[0].name, "b");
  const TensorInfo* info = reader.find("z/ü\"");
  ASSERT_NE(info, nullptr);
  EXPECT_EQ(info->shape, (std::vector<std::int64_t>{2, 3}));
  std::vector<float> back(4);
  reader.read(*info, 1, 4, back.data());
  EXPECT_TRUE(std::equal(back.begin(), back.end(), a.begin() + 1));
  float as_float = 0;
  reader.read_f32(*reader.find("s"), 0, 1, &as_float);
  EXPECT_EQ(as_float, 0.1F);
  EXPECT_EQ(reader.find("empty")->numel(), 0);
  EXPECT_EQ(reader.where(*info), (dir / "m.safetensors").string());
}

TEST(Safetensors, RefusesRangesOutsideATensor) {
  TempDir dir;
  SafetensorsWriter writer(dir / "m.safetensors", {{"a", Elem::u8, {3}}});
  const std::uint8_t bytes[4] = {1, 2, 3, 4};
  EXPECT_THROW(writer.write("a", 2, 2, bytes), RunError);
  EXPECT_THROW(writer.write("a", -1, 1, bytes), RunError);
  EXPECT_THROW(writer.write("b", 0, 1, bytes), RunError);
  writer.write("a", 0, 3, bytes);
  EXPECT_THROW(writer.write("a", 0, 1, bytes), RunError) << "the same elements twice";
  writer.commit();
  const SafetensorsReader reader(dir / "m.safetensors");
  std::uint8_t out[4];
  EXPECT_TRUE(says(message_of<RequestError>([&] { reader.read(reader.tensors()[0], 1, 3, out); }),
                   "tensor 'a': elements 1 to 4 were asked for, it has 3"));
  EXPECT_THROW(reader.read({"nobody", Elem::u8, {3}}, 0, 1, out), RequestError);
}

TEST(Safetensors, RefusesToCommitAnUnfinishedTensorAndLeavesNothing) {
  TempDir dir;
  {
    SafetensorsWriter writer(dir / "m.safetensors", {{"a", Elem::u8, {3}}});
    const std::uint8_t bytes[2] = {1, 2};
    writer.write("a", 0, 2, bytes);
    EXPECT_TRUE(says(message_of<RunError>([&] { writer.commit(); }), "tensor 'a': 2 of 3 elements were written"));
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(Safetensors, RefusesATableWithANameTwice) {
  TempDir dir;
  EXPECT_THROW(SafetensorsWriter(dir / "m", {{"a", Elem::u8, {1}}, {"a", Elem::f32, {1}}}), RunError);
  EXPECT_THROW(SafetensorsWriter(dir / "m", {{"__metadata__", Elem::u8, {1}}}), RunError);
  EXPECT_THROW(SafetensorsWriter(dir / "m", {{"a", Elem::u8, {-1}}}), RunError);
}

TEST(Safetensors, NamesTheFileWhenTheSpaceEnds) {
  TempDir dir;
  std::string said;
  {
    const FileSizeLimit limit(4096);
    said = message_of<RunError>([&] {
      SafetensorsWriter writer(dir / "m.safetensors", {{"a", Elem::u8, {10000}}});
      writer.write("a", 0, 10000, std::string(10000, 'x').data());
      writer.commit();
    });
  }
  EXPECT_TRUE(says(said, "m.safetensors"));
  EXPECT_TRUE(says(said, "File too large"));
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(Safetensors, RefusesFilesThatAreTooShortOrLieAboutTheHeader) {
  TempDir dir;
  const auto open = [&](const std::string& bytes) {
    write_file(dir / "x", bytes);
    return message_of<RequestError>([&] { SafetensorsReader reader(dir / "x"); });
  };
  EXPECT_TRUE(says(open(""), "0 bytes are too few"));
  EXPECT_TRUE(says(open("1234567"), "7 bytes are too few"));
  EXPECT_TRUE(says(open(with_length("{}", 3, "")), "a header of 3 bytes in a file of 10; is it cut short?"));
  EXPECT_TRUE(says(open(with_length("{}", UINT64_MAX, "")), "is too long"));
  EXPECT_TRUE(says(open(with_length("{}", 0, "")), "does not begin"));
  EXPECT_TRUE(says(open(with_length("[]", 2, "")), "does not begin"));
  EXPECT_TRUE(says(open(with_length("{\"a\"", 4, "")), "not JSON"));
  EXPECT_TRUE(says(open(with_length("{}{}", 4, "")), "not JSON"));
  EXPECT_TRUE(says(open(with_length("{} x", 4, "")), "not JSON"));
  EXPECT_TRUE(says(message_of<RequestError>([&] { SafetensorsReader reader(dir / "none"); }), "No such file"));
}

TEST(Safetensors, RefusesOffsetsThatLie) {
  const auto tensor = [](const std::string& begin, const std::string& end, const std::string& shape = "[4]") {
    return R"({"dtype":"U8","shape":)" + shape + R"(,"data_offsets":[)" + begin + "," + end + "]}";
  };
  const auto one = [&](const std::string& body, std::size_t bytes) { return complaint("{\"a\":" + body + "}", bytes); };
  EXPECT_EQ(one(tensor("0", "4"), 4), "(nothing was thrown)");
  EXPECT_TRUE(says(one(tensor("0", "4"), 3), "is the file cut short?"));
  EXPECT_TRUE(says(one(tensor("4", "0"), 4), "bytes 4 to 0"));
  EXPECT_TRUE(says(one(tensor("0", "9223372036854775807"), 4), "do not lie in the file's 4 bytes"));
  EXPECT_TRUE(says(one(tensor("0", "18446744073709551615"), 4), "beyond 63 bits"));
  EXPECT_TRUE(says(one(tensor("0", "99999999999999999999999"), 4), "not whole"));
  EXPECT_TRUE(says(one(tensor("-4", "0"), 4), "a negative number at 'a'"));
  EXPECT_TRUE(says(one(tensor("0", "4", "[5]"), 4), "of shape [5] needs 5 bytes, its offsets hold 4"));
  EXPECT_TRUE(says(one(tensor("0", "4", "[4294967296,4294967296,4294967296]"), 4), "is too large"));
  EXPECT_TRUE(says(one(tensor("0", "4"), 5), "5 bytes of data, the header tells of 4"));
  EXPECT_TRUE(says(one(tensor("1", "5"), 5), "a gap"));
  EXPECT_TRUE(says(complaint("{\"a\":" + tensor("0", "4") + ",\"b\":" + tensor("2", "6") + "}", 6), "overlaps"));
  EXPECT_TRUE(says(complaint("{\"a\":" + tensor("0", "4") + ",\"b\":" + tensor("0", "4") + "}", 4), "overlaps"));
  EXPECT_TRUE(says(complaint("{\"a\":" + tensor("0", "4") + ",\"a\":" + tensor("4", "8") + "}", 8), "stands twice"));
}

TEST(Safetensors, RefusesHeadersOfAnotherForm) {
  EXPECT_TRUE(
      says(complaint(R"({"a":{"dtype":"F8_E4M3","shape":[],"data_offsets":[0,1]}})", 1), "the dtype 'F8_E4M3'"));
  EXPECT_TRUE(says(complaint(R"({"a":{"dtype":"U8","shape":[]}})", 1), "no data_offsets at 'a'"));
  EXPECT_TRUE(says(complaint(R"({"a":{"shape":[],"data_offsets":[0,1]}})", 1), "no dtype"));
  EXPECT_TRUE(says(complaint(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1), "no shape"));
  EXPECT_TRUE(says(complaint(R"({"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}})", 1), "not whole"));
  EXPECT_TRUE(
      says(complaint(R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", 1), "a list where none belongs"));
  EXPECT_TRUE(says(complaint(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1,2]}})", 1), "exactly two"));
  EXPECT_TRUE(says(complaint(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0]}})", 1), "exactly two"));
  EXPECT_TRUE(says(complaint(R"({"a":{"x":{}}})", 1), "an object where none belongs"));
  EXPECT_TRUE(says(complaint(R"({"a":[1]})", 1), "a list where none belongs"));
  EXPECT_TRUE(says(complaint(R"({"a":7})", 1), "a number where none belongs"));
  EXPECT_TRUE(says(complaint(R"({"a":null})", 1), "a null"));
  EXPECT_TRUE(says(complaint(R"({"__metadata__":{"a":1}})", 0), "a number where none belongs"));
  EXPECT_TRUE(says(complaint(R"({"__metadata__":{"a":"1","a":"2"}})", 0), "twice"));
  EXPECT_TRUE(says(complaint(R"({"__metadata__":{},"__metadata__":{}})", 0), "twice"));
  EXPECT_EQ(complaint("{}   ", 0), "(nothing was thrown)");
}

TEST(Safetensors, EndsAtOnceAtDeepNestingAndEndlessShapes) {
  EXPECT_TRUE(says(complaint("{\"a\":" + std::string(5'000'000, '['), 0), "a list where none belongs"));
  std::string shape;
  for (int i = 0; i < 100000; ++i) shape += "1,";
  EXPECT_TRUE(says(complaint(R"({"a":{"dtype":"U8","shape":[)" + shape + R"(1],"data_offsets":[0,1]}})", 1),
                   "too many dimensions"));
}

TEST(Safetensors, SaysThatAFileWasCutAfterItWasOpened) {
  TempDir dir;
  {
    SafetensorsWriter writer(dir / "m", {{"a", Elem::u8, {1000}}});
    writer.write("a", 0, 1000, std::string(1000, 'x').data());
    writer.commit();
  }
  const SafetensorsReader reader(dir / "m");
  fs::resize_file(dir / "m", 500);
  std::vector<char> out(1000);
  EXPECT_TRUE(
      says(message_of<RequestError>([&] { reader.read(reader.tensors()[0], 0, 1000, out.data()); }), "became shorter"));
}

}  // namespace
}  // namespace tessera::io
