#include "tessera/io/torch_file.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "io/zip_builder.hpp"
#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/io/safetensors.hpp"

namespace tessera::io {
namespace {

namespace fs = std::filesystem;
using testing::build_zip;
using testing::tensor_pickle;
using testing::ZipOptions;
using testing_support::message_of;
using testing_support::TempDir;
using testing_support::write_file;

const fs::path kData = fs::path(TESSERA_SOURCE_DIR) / "tests/golden/io/data";

std::string bytes_of(const TensorSource& source, const TensorInfo& info, std::int64_t begin, std::int64_t count) {
  std::string out(static_cast<std::size_t>(count) * size_of(info.type), '\0');
  source.read(info, begin, count, out.data());
  return out;
}

/// Every tensor of `file` equals the one of that name among those Python wrote as safetensors.
void expect_as_python(const std::string& file, std::size_t count) {
  const TorchFileReader reader(kData / file);
  const SafetensorsReader expected(kData / "expected.safetensors");
  EXPECT_EQ(reader.tensors().size(), count);
  for (const auto& info : reader.tensors()) {
    SCOPED_TRACE(info.name);
    const TensorInfo* want = expected.find(info.name);
    ASSERT_NE(want, nullptr);
    EXPECT_EQ(info.type, want->type);
    EXPECT_EQ(info.shape, want->shape);
    EXPECT_EQ(bytes_of(reader, info, 0, info.numel()), bytes_of(expected, *want, 0, info.numel()));
    for (std::int64_t begin = 0; begin < info.numel(); ++begin) {  // ranges that begin and end inside rows
      const std::int64_t piece = std::min<std::int64_t>(info.numel() - begin, 5);
      EXPECT_EQ(bytes_of(reader, info, begin, piece), bytes_of(expected, *want, begin, piece)) << begin;
    }
  }
}

TEST(TorchFile, ReadsEveryTypeAndStrideFromTheZipForm) {
  expect_as_python("state.pth", 19);
}
TEST(TorchFile, ReadsTheFormBeforeTorch16) {
  expect_as_python("state_legacy.pth", 19);
}
TEST(TorchFile, ReadsProtocol4) {
  expect_as_python("state_protocol4.pth", 19);
}
TEST(TorchFile, NamesNestedTensorsByTheirPath) {
  expect_as_python("nested.pth", 3);
}

TEST(TorchFile, IsToldFromSafetensorsByItsFirstBytes) {
  EXPECT_TRUE(is_torch_file(kData / "state.pth"));
  EXPECT_TRUE(is_torch_file(kData / "state_legacy.pth"));
  EXPECT_FALSE(is_torch_file(kData / "expected.safetensors"));
  TempDir dir;
  write_file(dir / "empty", "");
  EXPECT_FALSE(is_torch_file(dir / "empty"));
  write_file(dir / "lookalike", std::string("PK\x03\x04\0\0\0\0{", 9));
  EXPECT_FALSE(is_torch_file(dir / "lookalike"));
  EXPECT_NE(open_weights(kData / "state.pth")->find("half"), nullptr);
  EXPECT_THROW(TorchFileReader(kData / "expected.safetensors"), RequestError);
}

TEST(TorchFile, OpensThroughAFolderAndAnIndex) {
  TempDir dir;
  fs::copy_file(kData / "state.pth", dir / "pytorch_model-00001-of-00001.bin");
  write_file(dir / "pytorch_model.bin.index.json", R"({"weight_map": {"half": "pytorch_model-00001-of-00001.bin"}})");
  EXPECT_EQ(open_weights(dir.path())->tensors().size(), 1U);
  fs::rename(dir / "pytorch_model-00001-of-00001.bin", dir / "pytorch_model.bin");
  EXPECT_EQ(open_weights(dir.path())->tensors().size(), 19U);
}

TEST(TorchFile, RefusesRangesOutsideATensor) {
  const TorchFileReader reader(kData / "state.pth");
  std::vector<char> out(1000);
  EXPECT_THROW(reader.read(*reader.find("half"), 5, 3, out.data()), RequestError);
  EXPECT_THROW(reader.read(*reader.find("transposed"), -1, 1, out.data()), RequestError);
  EXPECT_THROW(reader.read({"nobody", Elem::f32, {1}}, 0, 1, out.data()), RequestError);
}

::testing::AssertionResult says(const std::string& message, const std::string& part) {
  if (message.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "\"" << message << "\" lacks \"" << part << "\"";
}

std::string open_bytes(const std::string& bytes) {
  const TempDir dir;
  write_file(dir / "x.pth", bytes);
  return message_of<RequestError>([&] { TorchFileReader reader(dir / "x.pth"); });
}

/// A file whose one tensor has this pickle, over twelve floats.
std::string open_pickle(const std::string& pickle, ZipOptions options = {}) {
  return open_bytes(build_zip({{"a/data.pkl", pickle}, {"a/data/0", std::string(48, 'x')}}, options));
}

TEST(TorchFile, ReadsAnArchiveWithZip64Fields) {
  EXPECT_EQ(open_pickle(tensor_pickle("12", "0", "3,4", "4,1")), "(nothing was thrown)");
  EXPECT_EQ(open_pickle(tensor_pickle("12", "0", "3,4", "4,1"), {.zip64 = true}), "(nothing was thrown)");
}

TEST(TorchFile, RefusesTensorsThatLeaveTheirStorage) {
  EXPECT_TRUE(says(open_pickle(tensor_pickle("12", "1", "3,4", "4,1")), "leave its storage of 12 elements"));
  EXPECT_TRUE(says(open_pickle(tensor_pickle("12", "0", "3,4", "5,1")), "leave its storage"));
  EXPECT_TRUE(says(open_pickle(tensor_pickle("12", "13", "1", "1")), "leave its storage"));
  EXPECT_TRUE(says(open_pickle(tensor_pickle("12", "0", "2", "9223372036854775807")), "leave its storage"));
  EXPECT_TRUE(says(open_pickle(tensor_pickle("12", "0", "1099511627776", "0")), "save it with .contiguous()"));
  EXPECT_TRUE(says(open_pickle(tensor_pickle("12", "0", "4294967296,4294967296", "0,0")), "is too large"));
  EXPECT_TRUE(says(open_pickle(tensor_pickle("13", "0", "12", "1")), "should hold 13 F32 elements and has 48 bytes"));
  EXPECT_TRUE(
      says(open_pickle(tensor_pickle("9223372036854775807", "0", "12", "1")), "should hold 9223372036854775807"));
  EXPECT_TRUE(says(open_pickle(tensor_pickle("12", "-1", "3", "1")), "unexpected arguments"));
  EXPECT_TRUE(says(open_pickle(tensor_pickle("12", "0", "-3", "1")), "unexpected arguments"));
  EXPECT_TRUE(says(open_pickle(tensor_pickle("12", "0", "3", "1,1")), "unexpected arguments"));
  EXPECT_TRUE(says(open_pickle(tensor_pickle("-12", "0", "3", "1")), "not a storage"));
}

TEST(TorchFile, NamesAClassItDoesNotKnow) {
  EXPECT_TRUE(says(open_pickle("cos\nsystem\n(S'true'\ntR."), "'os.system', which is refused"));
  EXPECT_TRUE(says(open_pickle(tensor_pickle("12", "0", "3", "1", "torch\nUntypedStorage")), "'torch.UntypedStorage'"));
  EXPECT_TRUE(
      says(open_pickle(tensor_pickle("12", "0", "3", "1", "torch._utils\n_rebuild_tensor_v2")), "not a storage"));
  EXPECT_TRUE(says(open_pickle("(lI1\na."), "does not hold a dict"));
}

TEST(TorchFile, RefusesArchivesThatLie) {
  const std::string good = tensor_pickle("12", "0", "3,4", "4,1");
  EXPECT_TRUE(says(open_pickle(good, {.method = 8}), "'a/data.pkl' is compressed"));
  EXPECT_TRUE(says(open_pickle(good, {.flags = 1}), "is encrypted"));
  EXPECT_TRUE(says(open_pickle(good, {.size_lie = 1'000'000}), "length or offset of 1000"));
  EXPECT_TRUE(says(open_pickle(good, {.size_lie = 300, .zip64 = true}), "beyond the data"));
  EXPECT_TRUE(says(open_pickle(good, {.size_lie = std::uint64_t{1} << 63, .zip64 = true}), "length or offset"));
  EXPECT_TRUE(says(open_pickle(good, {.offset_lie = 1}), "is not at its offset 1"));
  EXPECT_TRUE(says(open_pickle(good, {.offset_lie = std::uint64_t{1} << 40, .zip64 = true}), "length or offset"));
  EXPECT_TRUE(says(open_pickle(good, {.count_lie = 1}), "2 entries where 3 were promised"));
  EXPECT_TRUE(says(open_pickle(good, {.directory_lie = 1}), "overlaps its end"));
  EXPECT_TRUE(says(open_bytes(build_zip({{"a/data.pkl", good}, {"a/data.pkl", good}})), "two entries named"));
  EXPECT_TRUE(says(open_bytes(build_zip({{"a/data.pkl", good}})), "storage '0' is not in the archive"));
  EXPECT_TRUE(says(open_bytes(build_zip({{"b", good}})), "without data.pkl"));
  EXPECT_TRUE(
      says(open_bytes(build_zip({{"a/data.pkl", good}, {"a/data/0", std::string(48, 'x')}, {"a/byteorder", "big"}})),
           "big-endian"));
}

TEST(TorchFile, RefusesEveryTruncationOfBothForms) {
  for (const char* name : {"state.pth", "state_legacy.pth"}) {
    const std::string whole = testing_support::read_file(kData / name);
    for (std::size_t size = 0; size < whole.size(); size += size < 64 || size + 64 > whole.size() ? 1 : 97) {
      ASSERT_NE(open_bytes(whole.substr(0, size)), "(nothing was thrown)") << name << " cut to " << size;
    }
  }
}

TEST(TorchFile, NeverDoesMoreThanThrowWhenABitFlips) {
  for (const char* name : {"state.pth", "state_legacy.pth", "nested.pth"}) {
    const std::string whole = testing_support::read_file(kData / name);
    const TempDir dir;
    for (std::size_t at = 0; at < whole.size(); ++at) {
      std::string broken = whole;
      broken[at] = static_cast<char>(broken[at] ^ (1 << (at % 8)));
      const fs::path path = dir / fmt::format("{}", at);  // a new name each time: rewriting one file waits for the disk
      write_file(path, broken);
      try {
        const TorchFileReader reader(path);
        for (const auto& info : reader.tensors()) {
          if (info.numel() < 10000) bytes_of(reader, info, 0, info.numel());
        }
      } catch (const RequestError&) {
      }
      fs::remove(path);
    }
  }
}

}  // namespace
}  // namespace tessera::io
