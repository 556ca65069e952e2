#pragma once
/// Memory of this process and of the machine, in bytes.
#include <cstdint>

namespace tessera {

/// Largest resident set so far.
std::int64_t peak_memory_bytes() noexcept;
/// What the machine, or the control group this process is in, can still give; -1 when neither says.
std::int64_t available_memory_bytes();

}  // namespace tessera
