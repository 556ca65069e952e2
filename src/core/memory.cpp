#include "tessera/core/memory.hpp"

#include <sys/resource.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

namespace tessera {

namespace {

namespace fs = std::filesystem;

// A number in a file that holds one, e.g. a control group's; -1 when there is none ("max").
std::int64_t number_in(const fs::path& path) {
  std::ifstream in(path);
  std::int64_t value = -1;
  return in >> value ? value : -1;
}

// The value after `key` in a file of lines "key value …"; -1 when it is not there.
std::int64_t value_of(const fs::path& path, const std::string& key) {
  std::ifstream in(path);
  std::string word;
  std::int64_t value = 0;
  std::string rest;
  while (in >> word >> value) {
    if (word == key) return value;
    std::getline(in, rest);
  }
  return -1;
}

// The names the two versions of control groups have for the same things.
struct GroupFiles {
  const char* limit;
  const char* usage;
  const char* cache;
};
constexpr GroupFiles kVersion1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};
constexpr GroupFiles kVersion2{"memory.max", "memory.current", "inactive_file"};

// What the group at `path` below `mount`, and every group around it, leaves; `least` when none has a limit.
std::int64_t left_in_groups(const fs::path& mount, fs::path path, const GroupFiles& files, std::int64_t least) {
  while (true) {
    const fs::path group = mount / path.relative_path();
    const auto limit = number_in(group / files.limit);
    const auto usage = number_in(group / files.usage);
    if (limit >= 0 && usage >= 0) {
      const auto cache = std::max<std::int64_t>(0, value_of(group / "memory.stat", files.cache));
      const auto left = std::max<std::int64_t>(0, limit - usage + std::min(cache, usage));
      least = least < 0 ? left : std::min(least, left);
    }
    if (path.relative_path().empty()) return least;
    path = path.parent_path();
  }
}

bool names_memory(const std::string& controllers) {
  return ("," + controllers + ",").find(",memory,") != std::string::npos;
}

}  // namespace

std::int64_t peak_memory_bytes() noexcept {
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<std::int64_t>(usage.ru_maxrss) * 1024 : 0;
}

std::int64_t available_memory_bytes(const fs::path& root) {
  const auto kib = value_of(root / "proc/meminfo", "MemAvailable:");
  std::int64_t least = kib < 0 ? -1 : kib * 1024;
  const fs::path mount = root / "sys/fs/cgroup";
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "0::/path" or "4:memory,cpu:/path"
    const auto first = line.find(':');
    const auto second = first == line.npos ? line.npos : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path path = line.substr(second + 1);
    if (controllers.empty()) least = left_in_groups(mount, path, kVersion2, least);
    if (names_memory(controllers)) least = left_in_groups(mount / "memory", path, kVersion1, least);
  }
  return least;
}

void keep_freed_memory() noexcept {
  setenv("THP_MEM_ALLOC_ENABLE", "1",
         /*overwrite=*/0);  // LibTorch's allocator: huge pages for blocks of 2 MiB and more
#ifdef __GLIBC__
  if (std::getenv("GLIBC_TUNABLES") != nullptr) return;
  constexpr int kLargest = 1 << 30;
  mallopt(M_MMAP_THRESHOLD, kLargest);  // larger blocks would be mapped, and unmapped when freed
  mallopt(M_TRIM_THRESHOLD, kLargest);
#endif
}

}  // namespace tessera
