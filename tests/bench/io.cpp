// Loading speed of weights against plain reading of the same bytes, one thread, file in the page cache.
//   build/bench_io WEIGHTS [--rounds 9]
// WEIGHTS: a folder or file as open_weights takes it. Prints medians: the files' bytes read as they lie, every tensor
// read as stored, every tensor converted to fp32. `python tests/bench/io_python.py FILE` does the second with
// safetensors or torch on the same file.
// On two busy cores of an AMD EPYC, 201 MB of bf16 in memory: the bytes 41 ms, tensors as stored 32 ms, as fp32 67 ms;
// safetensors' load_file with copies 48 ms, torch.load of the same as .bin 55 ms.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/io/model_folder.hpp"

namespace {

using namespace tessera;

constexpr std::int64_t kBlock = std::int64_t{8} << 20;  // bytes at a time, as the engine's loading takes them

double median_seconds(int rounds, const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  work();  // warm up: the page cache, the buffers
  std::vector<double> seconds;
  for (int i = 0; i < rounds; ++i) {
    const auto start = Clock::now();
    work();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

void read_files(const std::vector<InputFile>& files, std::vector<char>& buffer) {
  for (const InputFile& file : files) {
    for (std::int64_t at = 0; at < file.size(); at += kBlock) {
      file.read(at, buffer.data(), static_cast<std::size_t>(std::min(kBlock, file.size() - at)));
    }
  }
}

template <class Read>
void read_tensors(const io::TensorSource& source, std::int64_t element_bytes, Read read) {
  for (const io::TensorInfo& info : source.tensors()) {
    const std::int64_t size = element_bytes > 0 ? element_bytes : static_cast<std::int64_t>(io::size_of(info.type));
    const std::int64_t step = kBlock / size;
    for (std::int64_t at = 0; at < info.numel(); at += step) read(info, at, std::min(step, info.numel() - at));
  }
}

int run(int argc, char** argv) {
  int rounds = 9;
  std::string path;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--rounds" && i + 1 < argc) {
      rounds = std::max(std::atoi(argv[++i]), 1);
    } else {
      path = argv[i];
    }
  }
  if (path.empty()) throw RequestError("usage: bench_io WEIGHTS [--rounds 9]");

  const io::SourcePtr source = io::open_weights(path);
  std::set<std::string> names;
  std::int64_t tensor_bytes = 0;
  for (const io::TensorInfo& info : source->tensors()) {
    names.insert(source->where(info));
    tensor_bytes += info.numel() * static_cast<std::int64_t>(io::size_of(info.type));
  }
  std::vector<InputFile> files;
  std::int64_t file_bytes = 0;
  for (const std::string& name : names) file_bytes += files.emplace_back(name).size();
  fmt::print("{} tensors, {:.1f} MB in {} files\n", source->tensors().size(), static_cast<double>(file_bytes) / 1e6,
             files.size());

  std::vector<char> buffer(static_cast<std::size_t>(kBlock));
  const auto show = [](std::string_view what, double seconds, std::int64_t bytes) {
    fmt::print("{:<30} {:>8.2f} ms", what, 1e3 * seconds);
    if (bytes > 0) fmt::print(" {:>8.2f} GB/s", static_cast<double>(bytes) / seconds / 1e9);
    fmt::print("\n");
  };
  show("the files' bytes", median_seconds(rounds, [&] { read_files(files, buffer); }), file_bytes);
  show("opening (headers)", median_seconds(rounds, [&] { (void)io::open_weights(path); }), 0);
  show("tensors as stored",
       median_seconds(rounds,
                      [&] {
                        read_tensors(*source, 0,
                                     [&](const io::TensorInfo& info, std::int64_t begin, std::int64_t count) {
                                       source->read(info, begin, count, buffer.data());
                                     });
                      }),
       tensor_bytes);
  show("tensors as fp32",
       median_seconds(rounds,
                      [&] {
                        read_tensors(*source, sizeof(float),
                                     [&](const io::TensorInfo& info, std::int64_t begin, std::int64_t count) {
                                       source->read_f32(info, begin, count, reinterpret_cast<float*>(buffer.data()));
                                     });
                      }),
       tensor_bytes);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const tessera::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return static_cast<int>(error.status());
  }
}
