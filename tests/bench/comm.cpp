// Bandwidth of the collectives over MPI, beside MPI's own blocking calls and a copy in memory.
//   mpirun -n 2 build/bench_comm [--progress-thread] [--segment-kib 1024]
// Sizes are those of the full buffer, P. Algorithm bandwidth is P / time; bus bandwidth is (W-1)/W * P / time (twice
// that for an all_reduce), comparable over W as in nccl-tests. Best of several rounds, after one to warm up.
#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string_view>
#include <vector>

#include "comm/reduce_local.hpp"
#include "tessera/comm/mpi.hpp"

namespace {

using namespace tessera::comm;

class Bench {
 public:
  Bench(const MpiOptions& options, int* argc, char*** argv) : env_(argc, argv, options), comm_(make_mpi(env_)) {}
  ~Bench() { comm_->close(); }

  void run() {
    if (root()) {
      fmt::print("{} ranks on {} hosts, segment {} KiB, progress thread {}\n", env_.size(), env_.nodes(),
                 env_.engine() ? segment_kib : 0, thread);
      fmt::print("{:<40} {:>8} {:>10} {:>12} {:>10}\n", "operation", "MiB", "us", "alg GB/s", "bus GB/s");
    }
    for (const std::int64_t kib : {16, 1024, 4096, 16384, 65536}) sizes(kib * 1024);
    overlap();
  }

  std::int64_t segment_kib = 0;
  bool thread = false;

 private:
  bool root() const { return env_.rank() == 0; }

  void report(std::string_view what, std::int64_t bytes, double passes, const std::function<void()>& call) {
    const int rounds = bytes >= (16 << 20) ? 5 : 20;
    double best = 1e9;
    for (int round = 0; round <= rounds; ++round) {
      MPI_Barrier(MPI_COMM_WORLD);
      const double begin = MPI_Wtime();
      call();
      double mine = MPI_Wtime() - begin;
      double slowest = 0;
      MPI_Allreduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
      if (round > 0) best = std::min(best, slowest);
    }
    if (!root()) return;
    const double moved = static_cast<double>(bytes);
    const double ranks = env_.size();
    const double share = passes == 0 ? 1 : passes * (ranks - 1) / ranks;
    fmt::print("{:<40} {:>8.2f} {:>10.1f} {:>12.2f} {:>10.2f}\n", what, moved / (1 << 20), best * 1e6,
               moved / best * 1e-9, share * moved / best * 1e-9);
    std::fflush(stdout);
  }

  void sizes(std::int64_t bytes) {
    const std::int64_t n = bytes / 4 / env_.size();
    const std::int64_t total = n * env_.size();
    bytes = total * 4;
    std::vector<float> full(static_cast<std::size_t>(total), 1.0F);
    std::vector<float> other(static_cast<std::size_t>(total), 1.0F);
    std::vector<float> shard(static_cast<std::size_t>(n), 1.0F);
    const Buffer full_buffer{full.data(), total, DType::f32};
    const Buffer shard_buffer{shard.data(), n, DType::f32};
    const auto counts = static_cast<int>(n);
    report("memcpy, every rank at once", bytes, 0,
           [&] { std::memcpy(other.data(), full.data(), static_cast<std::size_t>(bytes)); });
    const void* sources[] = {full.data(), other.data()};
    report("local sum of two, every rank at once", bytes, 0,
           [&] { reduce_in_order(DType::f32, ReduceOp::sum, sources, full.data(), total); });
    report("MPI_Allgather", bytes, 1,
           [&] { MPI_Allgather(shard.data(), counts, MPI_FLOAT, full.data(), counts, MPI_FLOAT, MPI_COMM_WORLD); });
    report("all_gather", bytes, 1, [&] { comm_->all_gather(shard_buffer, full_buffer); });
    report("all_gather in place", bytes, 1, [&] {
      comm_->all_gather({full.data() + n * env_.rank(), n, DType::f32}, full_buffer);
    });
    report("MPI_Reduce_scatter_block", bytes, 1,
           [&] { MPI_Reduce_scatter_block(full.data(), shard.data(), counts, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD); });
    report("MPI_Ireduce_scatter_block + wait", bytes, 1, [&] {
      MPI_Request request = MPI_REQUEST_NULL;
      MPI_Ireduce_scatter_block(full.data(), shard.data(), counts, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &request);
      MPI_Wait(&request, MPI_STATUS_IGNORE);
    });
    report("reduce_scatter f32", bytes, 1, [&] { comm_->reduce_scatter(full_buffer, shard_buffer); });
    const std::int64_t half = 2 * n;
    report("reduce_scatter bf16", bytes, 1, [&] {
      comm_->reduce_scatter({full.data(), half * env_.size(), DType::bf16}, {shard.data(), half, DType::bf16});
    });
    report("MPI_Allreduce", bytes, 2, [&] {
      MPI_Allreduce(MPI_IN_PLACE, full.data(), static_cast<int>(total), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    });
    report("all_reduce", bytes, 2, [&] { comm_->all_reduce(full_buffer); });
    report("MPI_Bcast", bytes, 0,
           [&] { MPI_Bcast(full.data(), static_cast<int>(total), MPI_FLOAT, 0, MPI_COMM_WORLD); });
    report("broadcast", bytes, 0, [&] { comm_->broadcast(full_buffer, 0); });
    std::fill(full.begin(), full.end(), 1.0F);
  }

  /// What is left to wait for after compute as long as twice the collective, without and with calls of progress() in
  /// it.
  void overlap() {
    const std::int64_t n = std::int64_t{8} * 1024 * 1024 / env_.size();
    std::vector<float> full(static_cast<std::size_t>(n * env_.size()), 1.0F);
    std::vector<float> shard(static_cast<std::size_t>(n), 1.0F);
    const Buffer all{full.data(), n * env_.size(), DType::f32};
    const Buffer own{shard.data(), n, DType::f32};
    const auto start = [&](bool gather) {
      return gather ? comm_->start_all_gather(own, all) : comm_->start_reduce_scatter(all, own, ReduceOp::sum);
    };
    if (root()) fmt::print("{:<40} {:>10} {:>12} {:>12}\n", "overlap, 32 MiB", "alone ms", "compute ms", "left ms");
    for (const bool gather : {true, false}) {
      for (const int pieces : {1, 4, 32}) {
        double alone = 0;
        double computed = 0;
        double left = 1e9;
        for (int round = 0; round < 5; ++round) {
          MPI_Barrier(MPI_COMM_WORLD);
          const double t0 = MPI_Wtime();
          start(gather).wait();
          MPI_Barrier(MPI_COMM_WORLD);
          alone = MPI_Wtime() - t0;
          const double t1 = MPI_Wtime();
          Pending pending = start(gather);
          for (int piece = 0; piece < pieces; ++piece) {
            compute(2 * alone / pieces);
            if (pieces > 1) comm_->progress();
          }
          const double t2 = MPI_Wtime();
          pending.wait();
          computed = t2 - t1;
          left = std::min(left, MPI_Wtime() - t2);
        }
        if (root()) {
          fmt::print(
              "{:<40} {:>10.1f} {:>12.1f} {:>12.1f}\n",
              fmt::format("{}, {} progress calls", gather ? "all_gather" : "reduce_scatter", pieces > 1 ? pieces : 0),
              alone * 1e3, computed * 1e3, left * 1e3);
        }
      }
    }
  }

  static void compute(double seconds) {
    volatile double x = 1;
    for (const double end = MPI_Wtime() + seconds; MPI_Wtime() < end;) {
      for (int i = 0; i < 1000; ++i) x = x * 1.0000001;
    }
  }

  MpiEnv env_;
  std::unique_ptr<Communicator> comm_;
};

}  // namespace

int main(int argc, char** argv) {
  MpiOptions options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg == "--progress-thread") options.progress_thread = true;
    if (arg == "--segment-kib" && i + 1 < argc) options.segment_bytes = std::atoll(argv[++i]) * 1024;
  }
  Bench bench(options, &argc, &argv);
  bench.segment_kib = options.segment_bytes / 1024;
  bench.thread = options.progress_thread;
  bench.run();
}
