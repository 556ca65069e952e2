#include "shard/slice_loader.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "tessera/nn/init.hpp"

namespace tessera::shard {

namespace {

/// Elements filled at a time: bounds the memory beside the slices, and what is converted stays in the cache.
constexpr std::int64_t kChunk = std::int64_t{1} << 19;
constexpr int kMostThreads = 8;  // more readers than any disk or memory is faster with

struct Chunk {
  std::size_t fill = 0;
  std::int64_t at = 0, count = 0;  // inside the fill
};

std::vector<Chunk> cut(const std::vector<Fill>& fills) {
  std::vector<Chunk> out;
  for (std::size_t f = 0; f < fills.size(); ++f) {
    const std::int64_t all = fills[f].count, grain = fills[f].grain;
    const std::int64_t most = std::max(grain, kChunk / grain * grain);
    for (std::int64_t at = 0; at < all; at += most) out.push_back({f, at, std::min(most, all - at)});
  }
  return out;
}

// File by file and by name inside each, which is how model files are written: a disk reads forwards.
void sort_by_place(const io::TensorSource& source, std::vector<Fill>& fills) {
  std::vector<std::pair<std::string, Fill>> keyed;
  keyed.reserve(fills.size());
  for (auto& fill : fills) {
    keyed.emplace_back(fill.info == nullptr ? std::string() : source.where(*fill.info), std::move(fill));
  }
  std::stable_sort(keyed.begin(), keyed.end(), [](const auto& a, const auto& b) {
    if (a.first != b.first) return a.first < b.first;
    return a.second.param->name < b.second.param->name;
  });
  for (std::size_t i = 0; i < fills.size(); ++i) fills[i] = std::move(keyed[i].second);
}

class Filler {
 public:
  Filler(const io::TensorSource& source, const std::vector<Fill>& fills, std::uint64_t seed)
      : source_(source), fills_(fills), seed_(seed) {}

  // Returns the bytes read.
  std::int64_t fill(const Chunk& chunk) const {
    const Fill& f = fills_[chunk.fill];
    if (f.put) {
      thread_local std::vector<float> values;
      values.resize(static_cast<std::size_t>(chunk.count));
      const auto read = produce(f, chunk, values.data());
      f.put(f.begin + chunk.at, chunk.count, values.data());
      return read;
    }
    const at::Tensor target = f.target.narrow(0, chunk.at, chunk.count);
    if (target.is_cpu() && target.scalar_type() == at::kFloat) {
      return produce(f, chunk, target.mutable_data_ptr<float>());
    }
    // Pinned beside a GPU: such a copy runs at the speed of the bus.
    thread_local at::Tensor staging;
    const bool pinned = !target.is_cpu();
    if (!staging.defined() || staging.is_pinned() != pinned) {
      staging = at::empty({kChunk}, at::TensorOptions().dtype(at::kFloat).pinned_memory(pinned));
    }
    const auto read = produce(f, chunk, staging.mutable_data_ptr<float>());
    target.copy_(staging.narrow(0, 0, chunk.count));
    return read;
  }

  void will_fill(const Chunk& chunk) const {
    const Fill& f = fills_[chunk.fill];
    const auto count = in_file(f, chunk);
    if (count > 0) source_.will_read(*f.info, f.begin + chunk.at, count);
  }

 private:
  static std::int64_t in_file(const Fill& f, const Chunk& chunk) {
    return std::clamp<std::int64_t>(f.from_file() - chunk.at, 0, chunk.count);
  }
  std::int64_t produce(const Fill& f, const Chunk& chunk, float* out) const {
    const std::int64_t begin = f.begin + chunk.at;
    const std::int64_t read = in_file(f, chunk);
    if (read > 0) source_.read_f32(*f.info, begin, read, out);
    if (read < chunk.count) nn::fill_init(*f.param, seed_, begin + read, chunk.count - read, out + read);
    return read > 0 ? read * static_cast<std::int64_t>(io::size_of(f.info->type)) : 0;
  }

  const io::TensorSource& source_;
  const std::vector<Fill>& fills_;
  std::uint64_t seed_;
};

}  // namespace

std::int64_t Fill::from_file() const noexcept {
  return info == nullptr ? 0 : std::clamp<std::int64_t>(info->numel() - begin, 0, count);
}

int own_threads(int ranks_on_node) {
  cpu_set_t own;
  CPU_ZERO(&own);
  const int all = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const int allowed = ::sched_getaffinity(0, sizeof own, &own) == 0 ? CPU_COUNT(&own) : all;
  // Bound to a part of the machine, the part is its own; unbound, all ranks of the node share what there is.
  const int share = allowed < all ? allowed : all / std::max(1, ranks_on_node);
  return std::clamp(share, 1, kMostThreads);
}

void run_parallel(std::size_t count, int threads, const std::function<void(std::size_t)>& work,
                  const std::function<void()>& after) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;
  auto loop = [&](bool here) {
    const at::NoGradGuard no_grad;
    try {
      for (std::size_t i = next++; i < count; i = next++) {
        work(i);
        if (here && after) after();
      }
    } catch (...) {
      next = count;
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  const auto useful =
      std::min<std::size_t>(static_cast<std::size_t>(std::max(1, threads)), std::max<std::size_t>(count, 1));
  for (std::size_t t = 1; t < useful; ++t) others.emplace_back(loop, false);
  loop(true);
  for (auto& thread : others) thread.join();
  if (error) std::rethrow_exception(error);
}

std::int64_t fill_slices(const io::TensorSource& source, std::vector<Fill> fills, std::uint64_t seed, int threads,
                         ProgressStyle style) {
  using Clock = std::chrono::steady_clock;
  sort_by_place(source, fills);
  const auto chunks = cut(fills);
  std::int64_t to_read = 0;
  for (const auto& f : fills) {
    if (f.info != nullptr) to_read += f.from_file() * static_cast<std::int64_t>(io::size_of(f.info->type));
  }
  std::atomic<std::int64_t> read{0};
  std::optional<Progress> progress;
  const auto start = Clock::now();
  const auto show = [&] {
    if (style == ProgressStyle::silent || Clock::now() - start < std::chrono::seconds(1)) return;
    if (!progress) {
      progress.emplace("loading weights", to_read >> 20, ProgressSettings{.style = style, .unit = "MiB"});
    }
    progress->update(read.load() >> 20);
  };
  const Filler filler(source, fills, seed);
  const auto ahead = static_cast<std::size_t>(2 * std::max(1, threads));
  for (std::size_t i = 0; i < std::min(ahead, chunks.size()); ++i) filler.will_fill(chunks[i]);
  run_parallel(
      chunks.size(), threads,
      [&](std::size_t i) {
        if (i + ahead < chunks.size()) filler.will_fill(chunks[i + ahead]);
        read += filler.fill(chunks[i]);
      },
      show);
  if (progress) progress->update(read.load() >> 20);
  return read.load();
}

}  // namespace tessera::shard
