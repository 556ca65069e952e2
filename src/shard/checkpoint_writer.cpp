#include "tessera/shard/checkpoint_writer.hpp"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <thread>
#include <utility>

#include "shard/checkpoint_files.hpp"
#include "shard/checkpoint_format.hpp"
#include "shard/checkpoint_places.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/core/version.hpp"

namespace tessera::shard {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using format::FileRow;
using format::Manifest;

/// The writer mostly waits for the disk; where it does compute, the step goes first. More would let a step on every
/// core hold it up for seconds.
constexpr int kNicer = 2;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Work on a thread of low priority, or at once; its outcome is fetched by join().
class Task {
 public:
  ~Task() {
    cancelled_ = true;
    if (thread_.joinable()) thread_.join();
  }
  template <class F>
  void start(bool background, F work) {
    done_ = false;
    error_ = nullptr;
    auto guarded = [this, work = std::move(work)]() mutable {
      try {
        work();
      } catch (...) {
        error_ = std::current_exception();
      }
      done_.store(true, std::memory_order_release);
    };
    if (!background) return guarded();
    thread_ = std::thread([guarded = std::move(guarded)]() mutable {
      // Of this thread alone, on Linux; where it is not granted the thread is as good as its process.
      (void)::setpriority(PRIO_PROCESS, 0, std::min(::getpriority(PRIO_PROCESS, 0) + kNicer, 19));
      guarded();
    });
  }
  bool done() const noexcept { return done_.load(std::memory_order_acquire); }
  void join() {
    if (thread_.joinable()) thread_.join();
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }
  const std::atomic<bool>* cancelled() const noexcept { return &cancelled_; }

 private:
  std::thread thread_;
  std::atomic<bool> done_{true}, cancelled_{false};
  std::exception_ptr error_;
};

std::vector<CheckpointInfo::Tensor> trained_tensors(Engine& engine) {
  std::vector<CheckpointInfo::Tensor> out;
  for (const auto& slice : engine.trained()) {
    for (const auto& t : slice.layout->tensors()) out.push_back({t.param->name, t.param->shape});
  }
  return out;
}

/// Manifest, other places, names, old ones: what remains when every rank's files are on the disk. Rank 0.
void place_everywhere(const std::vector<CheckpointPlace>& places, const Manifest& manifest) {
  const std::int64_t step = manifest.info.step;
  const fs::path first = partial_path(places.front().root, step);
  write_file(first / format::kManifest, encode(manifest));
  sync_directory(first);
  for (std::size_t i = 1; i < places.size(); ++i) {
    make_directories(places[i].root);
    link_folder(first, partial_path(places[i].root, step));
  }
  for (const auto& place : places) {
    put_in_place(place.root, step);
    if (place.keep > 0) prune_checkpoints(place.root, step, place.keep);
  }
}

}  // namespace

struct CheckpointWriter::Impl {
  enum class Stage : std::uint8_t { idle, files, place };

  Impl(Engine& e, const Optimizer& o, std::uint64_t digest, CheckpointWriterConfig c)
      : engine(e), optimizer(o), frozen_digest(digest), config(c), snapshot(!e.config().device.is_cpu()) {}

  comm::Communicator& control() const { return engine.control(); }
  void start_files();
  template <class F>
  void timed(F&& write) {
    const auto start = Clock::now();
    write();
    write_s = seconds_since(start);
  }
  /// From a finished stage to the next; a save that is in place comes back.
  std::optional<SavedCheckpoint> advance();
  void enter_place_stage();
  SavedCheckpoint saved() const;
  std::optional<SavedCheckpoint> finish();
  void abandon() noexcept;

  Engine& engine;
  const Optimizer& optimizer;
  std::uint64_t frozen_digest;
  CheckpointWriterConfig config;
  Snapshot snapshot;
  Stage stage = Stage::idle;
  Manifest manifest;  // of the save under way
  std::vector<CheckpointPlace> places;
  Clock::time_point started;
  FileRow row;         // of this rank; the task's to write until it is done
  double write_s = 0;  // likewise
  double slowest_s = 0;
  double stall_s = 0;
  Task task;  // last: it ends before what it uses
};

void CheckpointWriter::Impl::start_files() {
  const fs::path folder = partial_path(places.front().root, manifest.info.step);
  comm::on_rank_zero(control(), [&] {
    fs::remove_all(folder);
    make_directories(folder);
  });
  const std::string stem = format::rank_stem(control().rank(), control().size());
  RankFile file(engine.trained());
  stage = Stage::files;
  if (!config.background) {
    task.start(false, [&] { timed([&] { row = write_rank_files(folder, stem, std::move(file)); }); });
    return;
  }
  comm::on_every_rank(control(), [&] { snapshot.take(file); });
  file.data.clear();  // the thread has no business with the slices
  task.start(true, [this, folder, stem, file = std::move(file)]() mutable {
    timed([&] { row = write_rank_files(folder, stem, std::move(file), snapshot, task.cancelled()); });
  });
}

void CheckpointWriter::Impl::enter_place_stage() {
  comm::on_every_rank(control(), [&] { task.join(); });
  const auto rows = comm::gather_texts(control(), encode(row));
  for (const auto& text : rows) {
    manifest.files.push_back(format::decode_row(text));
    manifest.info.bytes += manifest.files.back().bytes;
  }
  slowest_s = write_s;
  control().all_reduce({&slowest_s, 1, comm::DType::f64}, comm::ReduceOp::max);
  stage = Stage::place;
  if (control().rank() == 0) task.start(config.background, [this] { place_everywhere(places, manifest); });
}

SavedCheckpoint CheckpointWriter::Impl::saved() const {
  SavedCheckpoint out{manifest.info.step, {}, slowest_s, seconds_since(started), manifest.info.bytes};
  for (const auto& place : places) out.folders.push_back(final_path(place.root, out.step));
  return out;
}

std::optional<SavedCheckpoint> CheckpointWriter::Impl::advance() {
  try {
    if (stage == Stage::files) {
      enter_place_stage();
      return std::nullopt;
    }
    comm::on_every_rank(control(), [&] { task.join(); });
  } catch (...) {
    abandon();
    throw;
  }
  stage = Stage::idle;
  return saved();
}

std::optional<SavedCheckpoint> CheckpointWriter::Impl::finish() {
  std::optional<SavedCheckpoint> out;
  while (stage != Stage::idle) out = advance();
  return out;
}

// The disk may be full: what is of no use makes room.
void CheckpointWriter::Impl::abandon() noexcept {
  stage = Stage::idle;
  if (control().rank() != 0) return;
  std::error_code ignored;
  for (const auto& place : places) fs::remove_all(partial_path(place.root, manifest.info.step), ignored);
}

CheckpointWriter::CheckpointWriter(Engine& engine, const Optimizer& optimizer, std::uint64_t frozen_digest,
                                   CheckpointWriterConfig config)
    : impl_(std::make_unique<Impl>(engine, optimizer, frozen_digest, config)) {}

CheckpointWriter::~CheckpointWriter() = default;

std::vector<SavedCheckpoint> CheckpointWriter::begin(std::int64_t step, const std::string& trainer_state,
                                                     const std::vector<CheckpointPlace>& places) {
  auto& w = *impl_;
  std::vector<SavedCheckpoint> out;
  if (auto earlier = finish()) out.push_back(std::move(*earlier));
  if (places.empty()) return out;
  const auto start = Clock::now();
  w.places = places;
  w.started = start;
  w.manifest = {};
  w.manifest.info.step = step;
  w.manifest.info.ranks = w.control().size();
  w.manifest.info.frozen_digest = w.frozen_digest;
  w.manifest.info.optimizer = name_of(w.optimizer.config().kind);
  w.manifest.info.optimizer_steps = w.optimizer.steps();
  w.manifest.info.average = w.engine.config().average;
  w.manifest.info.trainer_state = trainer_state;
  w.manifest.info.program = version_string();
  w.manifest.info.tensors = trained_tensors(w.engine);
  try {
    w.start_files();
  } catch (...) {
    w.abandon();
    throw;
  }
  w.stall_s += seconds_since(start);
  if (!w.config.background) {
    if (auto mine = finish()) out.push_back(std::move(*mine));
  }
  return out;
}

std::optional<SavedCheckpoint> CheckpointWriter::poll() {
  auto& w = *impl_;
  if (w.stage == Impl::Stage::idle) return std::nullopt;
  const auto start = Clock::now();
  std::int64_t busy = w.task.done() ? 0 : 1;
  w.control().all_reduce({&busy, 1, comm::DType::i64}, comm::ReduceOp::max);
  std::optional<SavedCheckpoint> out;
  if (busy == 0) out = w.advance();
  w.stall_s += seconds_since(start);
  return out;
}

std::optional<SavedCheckpoint> CheckpointWriter::finish() {
  const auto start = Clock::now();
  auto out = impl_->finish();
  impl_->stall_s += seconds_since(start);
  return out;
}

bool CheckpointWriter::under_way() const noexcept {
  return impl_->stage != Impl::Stage::idle;
}

double CheckpointWriter::take_stall() noexcept {
  return std::exchange(impl_->stall_s, 0.0);
}

void save_checkpoint(const fs::path& root, std::int64_t step, Engine& engine, const Optimizer& optimizer,
                     std::uint64_t frozen_digest, const std::string& trainer_state) {
  CheckpointWriter writer(engine, optimizer, frozen_digest, {.background = false});
  writer.begin(step, trainer_state, {{root, 0}});
}

}  // namespace tessera::shard
