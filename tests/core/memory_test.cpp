#include "tessera/core/memory.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <vector>

#include "support/support.hpp"

namespace tessera {
namespace {

TEST(Memory, ThePeakGrowsWithWhatIsTouchedAndStays) {
  const auto before = peak_memory_bytes();
  EXPECT_GT(before, 0);
  {
    std::vector<char> block(64 << 20, 1);
    EXPECT_EQ(block.back(), 1);
  }
  EXPECT_GE(peak_memory_bytes(), before + (48 << 20));
}

TEST(Memory, FreedMemoryIsKeptForTheNextAllocation) {
  keep_freed_memory();
  if (std::getenv("GLIBC_TUNABLES") != nullptr) GTEST_SKIP() << "skipped: GLIBC_TUNABLES decides";
  constexpr std::size_t kBytes = std::size_t{48} << 20;  // above what the C library keeps of itself
  const auto faults_of_a_block = [] {
    rusage before{};
    rusage after{};
    getrusage(RUSAGE_SELF, &before);
    const std::vector<char> block(kBytes, 1);
    getrusage(RUSAGE_SELF, &after);
    EXPECT_EQ(block.back(), 1);
    return after.ru_minflt - before.ru_minflt;
  };
  faults_of_a_block();
  EXPECT_LT(faults_of_a_block(), 1000) << "12288 pages of 4 KiB were faulted in again";
}

TEST(Memory, TheMachineHasSomeLeft) {
  EXPECT_GT(available_memory_bytes(), 1 << 20);
}

using testing_support::TempDir;
using testing_support::write_file;

TEST(Memory, TheTightestOfTheGroupsAroundAJobCounts) {
  TempDir root;
  EXPECT_EQ(available_memory_bytes(root.path()), -1);
  write_file(root / "proc/meminfo", "MemTotal: 2000 kB\nMemFree: 10 kB\nMemAvailable: 1000 kB\n");
  EXPECT_EQ(available_memory_bytes(root.path()), 1000 * 1024);
  write_file(root / "proc/self/cgroup", "0::/slurm/job_7/step_0\n");
  write_file(root / "sys/fs/cgroup/slurm/job_7/step_0/memory.max", "max\n");
  write_file(root / "sys/fs/cgroup/slurm/job_7/step_0/memory.current", "100\n");
  EXPECT_EQ(available_memory_bytes(root.path()), 1000 * 1024);
  write_file(root / "sys/fs/cgroup/slurm/job_7/memory.max", "5000\n");
  write_file(root / "sys/fs/cgroup/slurm/job_7/memory.current", "3000\n");
  EXPECT_EQ(available_memory_bytes(root.path()), 2000);
  write_file(root / "sys/fs/cgroup/slurm/job_7/memory.stat", "anon 2500\ninactive_file 400\n");
  EXPECT_EQ(available_memory_bytes(root.path()), 2400);
  write_file(root / "sys/fs/cgroup/slurm/memory.max", "1000\n");
  write_file(root / "sys/fs/cgroup/slurm/memory.current", "1500\n");
  EXPECT_EQ(available_memory_bytes(root.path()), 0);
}

TEST(Memory, GroupsOfVersion1Count) {
  TempDir root;
  write_file(root / "proc/meminfo", "MemAvailable: 1000 kB\n");
  write_file(root / "proc/self/cgroup", "5:cpu,cpuacct:/x\n4:hugetlb,memory:/job\n");
  write_file(root / "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "700\n");
  write_file(root / "sys/fs/cgroup/memory/job/memory.usage_in_bytes", "200\n");
  write_file(root / "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write_file(root / "sys/fs/cgroup/memory/memory.usage_in_bytes", "200\n");
  EXPECT_EQ(available_memory_bytes(root.path()), 500);
}

}  // namespace
}  // namespace tessera
