#include "tessera/core/random.hpp"

#include <cmath>
#include <numbers>

namespace tessera {

float CounterStream::normal(std::uint64_t i) const noexcept {
  // 53-bit uniforms: the tail reaches 8.5 sigma, and the logarithm never sees zero.
  const double u1 = (static_cast<double>(bits(2 * i) >> 11) + 1.0) * 0x1.0p-53;
  const double u2 = static_cast<double>(bits(2 * i + 1) >> 11) * 0x1.0p-53;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u1)) * std::cos(2.0 * std::numbers::pi * u2));
}

std::uint64_t RandomSequence::below(std::uint64_t n) noexcept {
  // Lemire's rejection would need 128-bit multiplication; plain rejection of the incomplete last interval is exact too.
  const std::uint64_t limit = UINT64_MAX - UINT64_MAX % n;
  std::uint64_t x = next();
  while (x >= limit) x = next();
  return x % n;
}

double RandomSequence::uniform() noexcept {
  return static_cast<double>(next() >> 11) * 0x1.0p-53;
}

}  // namespace tessera
