// How fast a model folder comes into the slices, beside `cat` of its files into nothing.
//   mpirun -n 2 build/bench_load FOLDER [GIB=2] [TYPE=f32|bf16|f16] [ROUNDS=3]
// Makes FOLDER with GIB of random weights in two files and an index unless it is there. Each round runs cat and the
// load once with the files in the page cache and once with them dropped from it; the best of each kind counts. The load
// is Engine::load on all ranks, from a barrier to the last rank's end; what the engine's constructor allocates is not
// in it.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/memory.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/io/safetensors.hpp"
#include "tessera/shard/engine.hpp"

namespace {

using namespace tessera;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void make_folder(const fs::path& folder, double gib, io::Elem type) {
  if (fs::exists(folder / "model.safetensors.index.json")) return;
  make_directories(folder);
  constexpr std::int64_t kRows = 2051, kColumns = 1027;  // divides by nothing
  const auto bytes = kRows * kColumns * static_cast<std::int64_t>(io::size_of(type));
  const auto count = std::max<std::int64_t>(2, static_cast<std::int64_t>(gib * (1 << 30)) / bytes);
  std::vector<unsigned char> data(static_cast<std::size_t>(bytes));
  std::mt19937_64 random(1);
  for (auto& b : data) b = static_cast<unsigned char>(random() & 0x3b);  // finite in every type
  nlohmann::json map;
  for (int part = 0; part < 2; ++part) {
    const std::string name = fmt::format("model-0000{}-of-00002.safetensors", part + 1);
    std::vector<io::TensorInfo> table;
    for (std::int64_t i = part; i < count; i += 2)
      table.push_back({fmt::format("layer{:04}.weight", i), type, {kRows, kColumns}});
    io::SafetensorsWriter writer(folder / name, table);
    for (const auto& info : table) {
      writer.write(info.name, 0, info.numel(), data.data());
      map[info.name] = name;
    }
    writer.commit();
  }
  write_file(folder / "model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
}

std::vector<fs::path> data_files(const fs::path& folder) {
  return list_files(folder, {".safetensors"});
}

void drop_from_cache(const fs::path& folder) {
  for (const auto& file : data_files(folder)) {
    const Descriptor fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
    ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
  }
}

double cat_seconds(const fs::path& folder) {
  std::string command = "cat";
  for (const auto& file : data_files(folder)) command += " '" + file.string() + "'";
  const auto start = Clock::now();
  if (std::system((command + " > /dev/null").c_str()) != 0) throw std::runtime_error("cat failed");
  return seconds_since(start);
}

class Bench {
 public:
  Bench(comm::Communicator& comm, fs::path folder) : comm_(comm), folder_(std::move(folder)) {
    const auto source = io::open_weights(folder_);
    for (const auto& info : source->tensors())
      layout_.add(layout_.add_unit(info.name), info.name, info.shape, nn::Init::ones());
  }
  double cat() {
    double s = 0;
    if (comm_.rank() == 0) s = cat_seconds(folder_);
    return agreed(s);
  }
  void cool() {
    if (comm_.rank() == 0) drop_from_cache(folder_);
    comm_.barrier();
  }
  double load() {
    shard::Engine engine(layout_, comm::Fabric::on_host(comm_), {});
    const auto before = peak_memory_bytes();
    comm_.barrier();
    const auto start = Clock::now();
    const auto report = engine.load(*io::open_weights(folder_), {});
    const double s = agreed(seconds_since(start));
    read_ = report.bytes_read;
    comm_.all_reduce({&read_, 1, comm::DType::i64});
    extra_ = std::max(extra_, peak_memory_bytes() - before);
    const auto again = Clock::now();
    digest_ = engine.frozen_digest();
    digest_s_ = agreed(seconds_since(again));
    slices_ = engine.memory().frozen;
    return s;
  }
  void report(const char* what, double cat_s, double load_s, std::int64_t bytes) const {
    if (comm_.rank() != 0) return;
    const double gb = static_cast<double>(bytes) / 1e9;
    fmt::print("{:<5} cat {:6.3f} s {:6.2f} GB/s   load {:6.3f} s {:6.2f} GB/s   ratio {:.2f}\n", what, cat_s,
               gb / cat_s, load_s, gb / load_s, cat_s / load_s);
  }
  void run(int rounds) {
    std::int64_t bytes = 0, data = 0;
    for (const auto& file : data_files(folder_)) bytes += static_cast<std::int64_t>(fs::file_size(file));
    const auto source = io::open_weights(folder_);
    for (const auto& info : source->tensors()) data += info.numel() * static_cast<std::int64_t>(io::size_of(info.type));
    double warm_cat = 1e9, warm_load = 1e9, cold_cat = 1e9, cold_load = 1e9;
    for (int i = 0; i < rounds; ++i) {
      cool();
      cold_cat = std::min(cold_cat, cat());
      cool();
      cold_load = std::min(cold_load, load());
      warm_cat = std::min(warm_cat, cat());
      warm_load = std::min(warm_load, load());
    }
    report("warm", warm_cat, warm_load, bytes);
    report("cold", cold_cat, cold_load, bytes);
    if (comm_.rank() != 0) return;
    fmt::print("bytes: {} in the files, {} of them weights, {} read by {} ranks\n", bytes, data, read_, comm_.size());
    fmt::print("memory of rank 0: slices {:.1f} MiB, peak of the load above the allocated slices {:.1f} MiB\n",
               static_cast<double>(slices_) / 1048576.0, static_cast<double>(extra_) / 1048576.0);
    fmt::print("digest {:016x} of {:.2f} GB of slices a rank in {:.3f} s\n", digest_,
               static_cast<double>(slices_) / 1e9, digest_s_);
  }

 private:
  double agreed(double s) {
    comm_.all_reduce({&s, 1, comm::DType::f64}, comm::ReduceOp::max);
    return s;
  }
  comm::Communicator& comm_;
  fs::path folder_;
  nn::ModelLayout layout_;
  std::int64_t read_ = 0, extra_ = 0, slices_ = 0;
  std::uint64_t digest_ = 0;
  double digest_s_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  comm::MpiEnv env(&argc, &argv);
  if (argc < 2) {
    fmt::print(stderr, "usage: bench_load FOLDER [GIB] [f32|bf16|f16] [ROUNDS]\n");
    return 2;
  }
  const auto comm = comm::make_mpi(env);
  const std::string type = argc > 3 ? argv[3] : "f32";
  if (comm->rank() == 0) {
    make_folder(argv[1], argc > 2 ? std::atof(argv[2]) : 2.0,
                type == "bf16"  ? io::Elem::bf16
                : type == "f16" ? io::Elem::f16
                                : io::Elem::f32);
  }
  comm->barrier();
  Bench(*comm, argv[1]).run(argc > 4 ? std::atoi(argv[4]) : 3);
  comm->close();
  return 0;
}
