#include "tessera/comm/nccl.hpp"

#include "comm/conformance.hpp"
#include "tessera/comm/mpi.hpp"

namespace tessera::comm {
namespace {

using conformance::Conformance;
using conformance::Fixture;

/// MPI for the control, and this rank's GPU, opened when the first test needs them.
struct Job {
  MpiEnv env{nullptr, nullptr};
  std::unique_ptr<Communicator> control = make_mpi(env);
  std::shared_ptr<Gpu> gpu = Gpu::open(env.local_rank(), env.local_size());
};

std::string why_not() {
  const MpiEnv env(nullptr, nullptr);
  const int count = gpu_count();
  if (count >= env.local_size()) return "";
  return "NCCL needs a GPU for each of " + std::to_string(env.local_size()) + " ranks, this host has " +
         std::to_string(count);
}

Fixture nccl_fixture() {
  auto holder = std::make_shared<std::unique_ptr<Job>>();
  const auto job = [holder]() -> Job& {
    if (!*holder) *holder = std::make_unique<Job>();
    return **holder;
  };
  return {"Device",
          [job] { return make_nccl(*job().gpu, *job().control, "nccl"); },
          [job](std::size_t bytes) { return job().gpu->allocate(bytes); },
          [job](void* to, const void* host, std::size_t bytes) { job().gpu->upload(to, host, bytes); },
          [job](void* host, const void* from, std::size_t bytes) { job().gpu->download(host, from, bytes); },
          why_not};
}

const Fixture kFixture = nccl_fixture();

INSTANTIATE_TEST_SUITE_P(Nccl, Conformance, testing::Values(&kFixture), [](const auto& i) { return i.param->name; });

TEST(Gpu, KnowsItsDevice) {
  if (const std::string reason = why_not(); !reason.empty()) GTEST_SKIP() << "skipped: " << reason;
  const MpiEnv env(nullptr, nullptr);
  const auto gpu = Gpu::open(env.local_rank(), env.local_size());
  EXPECT_EQ(gpu->info().index, env.local_rank());
  EXPECT_FALSE(gpu->info().name.empty());
  EXPECT_GT(gpu->free_bytes(), 0);
  EXPECT_LE(gpu->free_bytes(), gpu->info().total_bytes);
  EXPECT_GE(gpu->info().nccl_version, 21800);
}

}  // namespace
}  // namespace tessera::comm
