#pragma once
/// Memory of this process and of the machine, in bytes.
#include <cstdint>
#include <filesystem>

namespace tessera {

/// Largest resident set so far.
std::int64_t peak_memory_bytes() noexcept;
/// What the machine can still give, or less where the control group this process is in (a batch job's, a container's),
/// or one around it, has a lower limit; -1 when nothing says. File cache that can be dropped counts as available.
/// Groups of version 1 and 2. `root`: where /proc and /sys are looked for, for tests.
std::int64_t available_memory_bytes(const std::filesystem::path& root = "/");

/// For a program that allocates and frees large arrays in a loop, as training does: memory that was freed is kept for
/// the next allocation instead of going back to the system, which would cost the page faults of each large temporary
/// again (a tenth of a step of training on a CPU, by bench_engine). Call it at the start of main. An environment that
/// sets GLIBC_TUNABLES keeps its word; without glibc this does nothing.
void keep_freed_memory() noexcept;

}  // namespace tessera
