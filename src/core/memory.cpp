#include "tessera/core/memory.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace tessera {

namespace {

// A number in a file that holds one, e.g. a control group's; -1 when there is none ("max").
std::int64_t number_in(const char* path) {
  std::ifstream in(path);
  std::int64_t value = -1;
  return in >> value ? value : -1;
}

std::int64_t machine_available() {
  std::ifstream in("/proc/meminfo");
  std::string key;
  std::int64_t kib = 0;
  std::string unit;
  while (in >> key >> kib) {
    std::getline(in, unit);
    if (key == "MemAvailable:") return kib * 1024;
  }
  return -1;
}

}  // namespace

std::int64_t peak_memory_bytes() noexcept {
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<std::int64_t>(usage.ru_maxrss) * 1024 : 0;
}

std::int64_t available_memory_bytes() {
  const auto machine = machine_available();
  const auto limit = number_in("/sys/fs/cgroup/memory.max");
  if (limit < 0) return machine;
  const auto left =
      std::max<std::int64_t>(0, limit - std::max<std::int64_t>(0, number_in("/sys/fs/cgroup/memory.current")));
  return machine < 0 ? left : std::min(machine, left);
}

}  // namespace tessera
