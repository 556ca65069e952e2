// How fast data is prepared, and read back for training, beside Pillow and NumPy doing the same.
//   mpirun -n 2 build/bench_data [--images 256] [--feature_images 384] [--rounds 3] [--python PYTHON]
// The data set is made of the sample photographs whose size is 640 x 480, under as many names as there are to be
// images, in ReasonSeg's layout with a polygon each; files lie in the page cache. `prepare` reads, decodes, checks,
// draws masks, tokenises four draws an image and writes shards on all ranks. The loader of rank 0 then delivers
// training samples (SAM 1024, CLIP 224, masks), one worker, and tests/bench/data_pillow.py does the same from the same
// files; both are counted by processor time, so that other programs do not count. Rounds alternate; medians. At last
// the loader reads stored features (2.5 MiB an image) beside plain large reads of the same files, both from the disk:
// the files are dropped from the page cache before each.
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "bench/data_features.hpp"
#include "bench/job.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/memory.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/data/prepare.hpp"
#include "tessera/image/image.hpp"

namespace {

using namespace tessera;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

struct Settings {
  std::int64_t images = 256;
  std::int64_t feature_images = 384;
  int rounds = 3;
  std::string python = "python3";
};

Settings settings_of(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--images") settings.images = std::atoll(argv[i + 1]);
    if (name == "--feature_images") settings.feature_images = std::atoll(argv[i + 1]);
    if (name == "--rounds") settings.rounds = std::atoi(argv[i + 1]);
    if (name == "--python") settings.python = argv[i + 1];
  }
  return settings;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.at(values.size() / 2);
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Of all threads of this process.
double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double peak_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

std::vector<std::string> photographs() {
  std::vector<std::string> found;
  for (const auto& path : list_files(fs::path(TESSERA_SOURCE_DIR) / "datasets/sample/coco/train2017", {".jpg"})) {
    auto bytes = read_file(path);
    const auto size = image::probe(image::bytes_of(bytes), path.string()).size;
    if (size == image::Size{480, 640}) found.push_back(std::move(bytes));
  }
  return found;
}

void make_data_set(const fs::path& root, std::int64_t images) {
  const auto photos = photographs();
  const auto folder = root / "reason_seg/ReasonSeg/train";
  fs::create_directories(folder);
  for (std::int64_t i = 0; i < images; ++i) {
    const auto name = fmt::format("image{:05}", i);
    write_file(folder / (name + ".jpg"), photos.at(static_cast<std::size_t>(i) % photos.size()));
    write_file(folder / (name + ".json"),
               R"({"text": ["the thing that is meant here", "what one would look for", "the third wording"],
                   "is_sentence": false,
                   "shapes": [{"label": "target", "points": [[100, 80], [420, 60], [500, 300], [300, 420], [90, 250]]}]})");
  }
}

data::PrepareConfig prepare_config(const fs::path& root, const std::string& output) {
  data::PrepareConfig config;
  config.dataset_dir = root.string();
  config.dataset = "reason_seg";
  config.val_dataset = "";
  config.explanatory = -1;
  config.version = (fs::path(TESSERA_SOURCE_DIR) / "launch/toy/lisa").string();
  config.output_dir = output;
  config.quiet = true;
  return config;
}

/// Images a second of all ranks together.
double time_prepare(const fs::path& root, const std::string& output, std::int64_t images, comm::Communicator& comm) {
  comm::on_rank_zero(comm, [&] { fs::remove_all(output); });
  const auto start = Clock::now();
  data::run_prepare(prepare_config(root, output), comm, Log());
  comm.barrier();
  return static_cast<double>(images) / seconds_since(start);
}

struct Delivered {
  double per_core = 0;  ///< samples a second of processor time
  double peak_ahead_mib = 0;
};

Delivered time_loader(const data::Shards& shards, std::int64_t samples) {
  constexpr std::int64_t kBatch = 2;
  data::LoaderConfig config;
  config.batch_size = kBatch;
  config.global_batch_size = kBatch;
  config.workers = 1;
  config.prefetch_mib = 256;
  data::Loader loader(config, {}, shards, 1, 0, 1);
  loader.next();  // the first one, with all that is done once
  const double start = processor_seconds();
  for (std::int64_t done = 0; done < samples; done += kBatch) loader.next();
  const double seconds = processor_seconds() - start;
  return {static_cast<double>(samples) / seconds, static_cast<double>(loader.peak_bytes()) / (1 << 20)};
}

/// The same in Python: samples a second of processor time.
double time_pillow(const Settings& settings, const fs::path& root) {
  const auto command = fmt::format("'{}' '{}' '{}'", settings.python,
                                   (fs::path(TESSERA_SOURCE_DIR) / "tests/bench/data_pillow.py").string(),
                                   (root / "reason_seg/ReasonSeg/train").string());
  FILE* pipe = popen(command.c_str(), "r");
  double rate = 0;
  if (pipe == nullptr || std::fscanf(pipe, "%lf", &rate) != 1 || pclose(pipe) != 0) {
    throw RunError("{} failed", command);
  }
  return rate;
}

void run(const Settings& settings, comm::Communicator& comm) {
  const auto root =
      comm::broadcast_text(comm, (fs::temp_directory_path() / fmt::format("bench_data_{}", getpid())).string());
  comm::on_rank_zero(comm, [&] { make_data_set(root, settings.images); });
  const auto shards = root + "/shards";
  std::vector<double> prepared;
  for (int i = 0; i < settings.rounds; ++i) prepared.push_back(time_prepare(root, shards, settings.images, comm));
  comm::on_rank_zero(comm, [&] {
    fmt::print("prepare, {} ranks: {:.0f} images/s (median of {})\n", comm.size(), median(prepared), settings.rounds);
    const auto table = data::Shards::open(shards, "train", {});
    std::vector<double> ours, theirs;
    double ahead = 0;
    for (int i = 0; i < settings.rounds; ++i) {
      const auto delivered = time_loader(table, settings.images);
      ours.push_back(delivered.per_core);
      ahead = std::max(ahead, delivered.peak_ahead_mib);
      theirs.push_back(time_pillow(settings, root));
    }
    fmt::print("loader: {:.1f} samples/s and core; Pillow and NumPy {:.1f}; {:.2f} times\n", median(ours),
               median(theirs), median(ours) / median(theirs));
    fmt::print("read ahead at most {:.0f} MiB of 256, peak of the process {:.0f} MiB\n", ahead, peak_mib());
    const auto features = bench::measure_features(root + "/features", settings.feature_images, settings.rounds);
    fmt::print(
        "stored features: the disk reads {:.0f} MiB/s in order and {:.0f} MiB/s of such pieces in random order; the "
        "loader delivers {:.0f} MiB/s, {:.0f} and {:.0f} % of it\n",
        features.disk_mib_s, features.pieces_mib_s, features.loader_mib_s,
        100 * features.loader_mib_s / features.disk_mib_s, 100 * features.loader_mib_s / features.pieces_mib_s);
    fs::remove_all(root);
  });
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();  // as the program does
  const auto settings = settings_of(argc, argv);
  bench::run_job({}, [&](comm::MpiEnv& env) {
    const auto comm = comm::make_mpi(env);
    run(settings, *comm);
    comm->close();
  });
}
