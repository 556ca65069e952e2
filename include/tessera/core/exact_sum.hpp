#pragma once
/// ExactSum: a sum of doubles without rounding, so that its value does not depend on the order of the terms or on how
/// they are dealt out to ranks. A fixed-point number of 2176 bits in 68 words of 32 bits, each in a 64-bit integer:
/// terms and whole sums are added word by word, carries are settled when the value is asked for.
/// Bound: 2^30 terms between two sums of words.
/// Source: Kulisch and Miranker, "The arithmetic of the digital computer", SIAM Review 28 (1986).
#include <array>
#include <cstdint>

namespace tessera {

class ExactSum {
 public:
  static constexpr std::size_t kWords = 68;

  /// A term that is not finite makes the sum not a number, for good.
  void add(double term) noexcept;
  void add(const ExactSum& other) noexcept;
  /// The sum rounded to a double; NaN once a term was not finite.
  double value() const noexcept;

  /// The words, for an integer all_reduce: the sum of the words of all ranks is the words of the sum. The last one
  /// counts the terms that were not finite.
  std::array<std::int64_t, kWords + 1>& words() noexcept { return words_; }

 private:
  std::array<std::int64_t, kWords + 1> words_{};
};

}  // namespace tessera
