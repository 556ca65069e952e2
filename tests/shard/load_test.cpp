// Weights from files: every byte read once by the whole job, into whatever slices there are, by any number of threads.
#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <cstring>
#include <fstream>
#include <numeric>
#include <set>

#include "shard/digest.hpp"
#include "shard/slice_loader.hpp"
#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/io/safetensors.hpp"
#include "tessera/shard/engine.hpp"

namespace tessera::shard {
namespace {

namespace fs = std::filesystem;
using io::Elem;
using testing_support::message_of;

constexpr std::int64_t kRows = 997, kColumns = 401;
constexpr Elem kTypes[] = {Elem::f32, Elem::bf16, Elem::f16, Elem::f32, Elem::bf16, Elem::f32};

std::string name(std::size_t i) {
  return "tensor" + std::to_string(i);
}

// Small whole numbers: exact in every type, and different at each place and in each tensor.
float value(std::size_t tensor, std::int64_t at) {
  return static_cast<float>((at * 7 + static_cast<std::int64_t>(tensor) * 13) % 101 - 50);
}

std::uint16_t half_of(float v) {  // of whole numbers below 2048
  if (v == 0) return 0;
  const auto bits = std::bit_cast<std::uint32_t>(v);
  return static_cast<std::uint16_t>((bits >> 16 & 0x8000) | ((bits >> 23 & 0xff) - 112) << 10 | (bits >> 13 & 0x3ff));
}

void write_folder(const fs::path& folder) {
  std::string map;
  for (int part = 0; part < 2; ++part) {
    const std::string file = "part" + std::to_string(part) + ".safetensors";
    std::vector<io::TensorInfo> table;
    for (std::size_t i = 0; i < std::size(kTypes); ++i) {
      if (i % 2 == static_cast<std::size_t>(part)) table.push_back({name(i), kTypes[i], {kRows, kColumns}});
    }
    io::SafetensorsWriter writer(folder / file, table);
    for (std::size_t i = static_cast<std::size_t>(part); i < std::size(kTypes); i += 2) {
      std::vector<float> f32(kRows * kColumns);
      std::vector<std::uint16_t> f16(f32.size());
      for (std::size_t at = 0; at < f32.size(); ++at) {
        f32[at] = value(i, static_cast<std::int64_t>(at));
        f16[at] = kTypes[i] == Elem::f16 ? half_of(f32[at])
                                         : static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(f32[at]) >> 16);
      }
      const void* data = kTypes[i] == Elem::f32 ? static_cast<const void*>(f32.data()) : f16.data();
      writer.write(name(i), 0, kRows * kColumns, data);
      map += (map.empty() ? "\"" : ", \"") + name(i) + "\": \"" + file + "\"";
    }
    writer.commit();
  }
  testing_support::write_file(folder / "model.safetensors.index.json", "{\"weight_map\": {" + map + "}}");
}

// Bytes that this process has read by system calls.
std::int64_t bytes_read_so_far() {
  std::ifstream in("/proc/self/io");
  std::string key;
  std::int64_t n = -1;
  in >> key >> n;
  return key == "rchar:" ? n : -1;
}

class LoadTest : public testing::Test {
 protected:
  void SetUp() override {
    if (comm->rank() == 0) {
      own.emplace();
      write_folder(own->path());
    }
    folder = comm::broadcast_text(*comm, own ? own->path().string() : "");
    for (std::size_t i = 0; i < std::size(kTypes); ++i) {
      layout.add(layout.add_unit(name(i)), name(i), {kRows, kColumns}, nn::Init::ones())->trainable = i == 1;
    }
  }
  void TearDown() override { comm->barrier(); }
  std::int64_t sum(std::int64_t mine) {
    comm->all_reduce({&mine, 1, comm::DType::i64});
    return mine;
  }
  void expect_values(Engine& engine) {
    for (std::size_t i = 0; i < std::size(kTypes); ++i) {
      const auto unit = static_cast<nn::UnitId>(i);
      engine.with_gathered(unit, true, [&] {
        const auto* data = layout.unit(unit).params[0]->value().const_data_ptr<float>();
        for (std::int64_t at = 0; at < kRows * kColumns; ++at) ASSERT_EQ(data[at], value(i, at)) << i << " at " << at;
      });
    }
  }

  comm::MpiEnv env{nullptr, nullptr};
  std::unique_ptr<comm::Communicator> comm = comm::make_mpi(env);
  std::optional<testing_support::TempDir> own;
  fs::path folder;
  nn::ModelLayout layout;
};

TEST_F(LoadTest, EachByteIsReadOnceByTheWholeJob) {
  std::int64_t in_files = 0;
  const auto source = io::open_weights(folder);
  for (const auto& info : source->tensors()) in_files += info.numel() * static_cast<std::int64_t>(size_of(info.type));
  std::optional<std::uint64_t> digest;
  for (const int threads : {1, 3}) {
    Engine engine(layout, comm::Fabric::on_host(*comm), {});
    LoadPolicy policy;
    policy.threads = threads;
    const auto before = bytes_read_so_far();
    const auto report = engine.load(*source, policy);
    const auto after = bytes_read_so_far();
    engine.settle();
    EXPECT_EQ(sum(report.bytes_read), in_files);
    if (before >= 0) {  // what the system counted; it also counts the reading of the counter
      const auto really = sum(after - before);
      EXPECT_GE(really, in_files);
      EXPECT_LE(really, in_files + 16384 * comm->size());
    }
    EXPECT_EQ(report.tensors_read, static_cast<std::int64_t>(std::size(kTypes)));
    expect_values(engine);
    if (!digest) digest = engine.frozen_digest();
    EXPECT_EQ(engine.frozen_digest(), *digest);
  }
}

TEST_F(LoadTest, AFileThatIsCutWhileItIsReadEndsTheLoadWithItsName) {
  const auto source = io::open_weights(folder);
  comm->barrier();
  if (comm->rank() == 0) fs::resize_file(folder / "part1.safetensors", 100'000);
  comm->barrier();
  Engine engine(layout, comm::Fabric::on_host(*comm), {});
  LoadPolicy policy;
  policy.threads = 3;
  std::string text;
  try {
    comm::on_every_rank(*comm, [&] { engine.load(*source, policy); });
  } catch (const RequestError& e) {
    text = e.what();
  }
  EXPECT_NE(text.find("part1.safetensors"), std::string::npos) << text;
}

TEST_F(LoadTest, EverythingThatDoesNotFitIsListedAtOnce) {
  nn::ModelLayout other;
  const nn::UnitId unit = other.add_unit("u");
  other.add(unit, name(0), {kRows, kColumns}, nn::Init::ones());
  other.add(unit, name(1), {kColumns, kRows}, nn::Init::ones());
  other.add(unit, name(2), {kRows + 3, kColumns}, nn::Init::ones());  // more rows, but not a vocabulary
  other.add(unit, "absent", {5}, nn::Init::ones());
  Engine engine(other, comm::Fabric::on_host(*comm), {});
  const auto source = io::open_weights(folder);
  const std::string text = message_of<RequestError>([&] { engine.load(*source, {}); });
  for (const char* line :
       {"\n  shape: tensor1 is [997, 401] in ", ", the model has [401, 997]", "\n  shape: tensor2 is ",
        "\n  missing: absent [5]", "\n  unexpected: tensor3", "\n  unexpected: tensor4", "\n  unexpected: tensor5"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << " in " << text;
  }
  EXPECT_EQ(text.find("tensor0"), std::string::npos) << text;
}

// As torch's load_state_dict(strict=False) and transformers: what nothing takes is named, and loading goes on.
TEST_F(LoadTest, TensorsThatNothingTakesAreNamedWhereTheRestFits) {
  nn::ModelLayout part;
  for (const std::size_t i : {0U, 3U}) part.add(part.add_unit(name(i)), name(i), {kRows, kColumns}, nn::Init::ones());
  Engine engine(part, comm::Fabric::on_host(*comm), {});
  const auto report = engine.load(*io::open_weights(folder), {});
  engine.settle();
  EXPECT_EQ(report.tensors_read, 2);
  const std::set<std::string> unused(report.unused.begin(), report.unused.end());
  EXPECT_EQ(unused, (std::set<std::string>{name(1), name(2), name(4), name(5)}));
}

TEST(RunParallel, DoesEachPieceOnceAndThrowsTheFirstError) {
  for (const int threads : {1, 2, 5}) {
    std::vector<std::atomic<int>> seen(1000);
    run_parallel(seen.size(), threads, [&](std::size_t i) { ++seen[i]; });
    for (const auto& n : seen) EXPECT_EQ(n, 1);
    std::atomic<int> done{0};
    const auto text = message_of<RunError>([&] {
      run_parallel(100'000, threads, [&](std::size_t i) {
        ++done;
        if (i == 50) throw RunError("piece {}", i);
      });
    });
    EXPECT_EQ(text, "piece 50");
    // Others may be ahead of the one that fails by as much as the scheduler likes; alone, nothing comes after it.
    if (threads == 1) {
      EXPECT_EQ(done, 51);
    }
  }
  run_parallel(0, 4, [](std::size_t) { FAIL(); });
}

TEST(Digest, IsTheSameForEveryCutAndAnotherForEveryChange) {
  std::vector<float> values(5000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = value(i % 5, static_cast<std::int64_t>(i));
  const auto n = static_cast<std::int64_t>(values.size());
  const auto whole = digest_piece(11, n, 0, values.data(), n);
  for (const std::int64_t step : {1, 64, 1000, 1024, 3333}) {
    std::uint64_t sum = 0;
    for (std::int64_t at = 0; at < n; at += step)
      sum += digest_piece(11, n, at, values.data() + at, std::min(step, n - at));
    EXPECT_EQ(sum, whole) << step;
  }
  EXPECT_NE(digest_piece(12, n, 0, values.data(), n), whole);  // another name
  EXPECT_NE(digest_piece(11, n - 1, 0, values.data(), n - 1), whole);
  for (const std::size_t at : {std::size_t{0}, std::size_t{1023}, std::size_t{1024}, std::size_t{4999}}) {
    for (int bit = 0; bit < 32; ++bit) {
      auto changed = values;
      changed[at] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(values[at]) ^ 1U << bit);
      EXPECT_NE(digest_piece(11, n, 0, changed.data(), n), whole) << at << " bit " << bit;
    }
  }
  auto swapped = values;
  std::swap(swapped[3], swapped[1024 + 3]);  // the same key, another block
  EXPECT_NE(digest_piece(11, n, 0, swapped.data(), n), whole);
}

}  // namespace
}  // namespace tessera::shard
