#include "tessera/core/exact_sum.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tessera {

namespace {
constexpr int kLowest = -1074;  // exponent of the lowest bit of word 0: that of the smallest subnormal
}

void ExactSum::add(double term) noexcept {
  if (!std::isfinite(term)) {
    ++words_[kWords];
    return;
  }
  if (term == 0) return;
  int exponent = 0;
  const double fraction = std::frexp(std::fabs(term), &exponent);  // in [0.5, 1)
  auto mantissa = static_cast<std::uint64_t>(std::ldexp(fraction, 53));
  int lowest = exponent - 53 - kLowest;  // place of the mantissa's lowest bit
  if (lowest < 0) {                      // a subnormal: its lower bits are zero
    mantissa >>= -lowest;
    lowest = 0;
  }
  const auto word = static_cast<std::size_t>(lowest / 32);
  const int shift = lowest % 32;
  const std::uint64_t low = (mantissa & 0xffffffffU) << shift;
  const std::uint64_t high = (mantissa >> 32) << shift;
  const std::int64_t sign = term < 0 ? -1 : 1;
  words_[word] += sign * static_cast<std::int64_t>(low & 0xffffffffU);
  words_[word + 1] += sign * static_cast<std::int64_t>((low >> 32) + (high & 0xffffffffU));
  words_[word + 2] += sign * static_cast<std::int64_t>(high >> 32);
}

void ExactSum::add(const ExactSum& other) noexcept {
  for (std::size_t i = 0; i < words_.size(); ++i) words_[i] += other.words_[i];
}

double ExactSum::value() const noexcept {
  if (words_[kWords] != 0) return std::numeric_limits<double>::quiet_NaN();
  // Settle the carries so that every word but the last lies in [0, 2^32); then a negative sum has a negative last word.
  std::array<std::int64_t, kWords> digits{};
  auto settle = [&](std::int64_t sign) {
    std::int64_t carry = 0;
    for (std::size_t i = 0; i < kWords; ++i) {
      const std::int64_t full = sign * words_[i] + carry;
      digits[i] = i + 1 < kWords ? full & 0xffffffff : full;
      carry = full >> 32;
    }
  };
  settle(1);
  const bool negative = digits[kWords - 1] < 0;
  if (negative) settle(-1);
  // From the top: the first two words that hold the leading bits decide the double, lower ones only its rounding.
  std::size_t top = kWords;
  while (top > 0 && digits[top - 1] == 0) --top;
  if (top == 0) return 0;
  const auto at = [&](std::size_t i) { return i < kWords ? static_cast<std::uint64_t>(digits[i]) : 0; };
  // 96 leading bits; what lies below is folded into a sticky bit.
  std::uint64_t head = at(top - 1) << 32 | (top >= 2 ? at(top - 2) : 0);
  std::uint64_t tail = top >= 3 ? at(top - 3) : 0;
  bool sticky = false;
  for (std::size_t i = 0; i + 3 < top; ++i) sticky = sticky || digits[i] != 0;
  int shift = 0;
  while ((head >> 63) == 0) {
    head = head << 1 | (tail >> 31 & 1);
    tail = tail << 1 & 0xffffffff;
    ++shift;
  }
  sticky = sticky || tail != 0;
  if (sticky) head |= 1;  // bit 0 lies far below the 53 that stay
  // Subnormal results round where their own lowest bit is.
  const int exponent = static_cast<int>(top) * 32 - 64 - shift + kLowest;
  const int drop = std::max(11, kLowest - exponent);
  if (drop >= 64) return negative ? -0.0 : 0.0;
  std::uint64_t kept = head >> drop;
  const std::uint64_t rest = head & ((std::uint64_t{1} << drop) - 1);
  const std::uint64_t half = std::uint64_t{1} << (drop - 1);
  if (rest > half || (rest == half && (kept & 1) != 0)) ++kept;
  const double value = std::ldexp(static_cast<double>(kept), exponent + drop);
  return negative ? -value : value;
}

}  // namespace tessera
