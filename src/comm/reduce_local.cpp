#include "comm/reduce_local.hpp"

#include <algorithm>
#include <type_traits>

#include "comm/half.hpp"
#include "tessera/core/error.hpp"

// The loops below also get a version for AVX2, chosen when the program starts: packing 16-bit results takes
// instructions that the baseline x86-64 lacks. Sanitizers run before such a choice can be made.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define TESSERA_VECTOR_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define TESSERA_VECTOR_CLONES
#endif

namespace tessera::comm {
namespace {

constexpr std::int64_t kBlock = 1024;  // elements; the accumulators stay in the first-level cache

TESSERA_VECTOR_CLONES void widen_bf16(const std::uint16_t* from, float* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = float_of_bf16(from[i]);
}
TESSERA_VECTOR_CLONES void narrow_bf16(const float* from, std::uint16_t* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = bf16_of_float(from[i]);
}
TESSERA_VECTOR_CLONES void widen_f16(const std::uint16_t* from, float* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = float_of_f16(from[i]);
}
TESSERA_VECTOR_CLONES void narrow_f16(const float* from, std::uint16_t* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = f16_of_float(from[i]);
}

// How an element type is accumulated: widened into `Acc` block by block, or as it is.
template <class T>
struct Plain {
  using Stored = T;
  using Acc = T;
  static const Acc* load(const Stored* from, Acc*, std::int64_t) { return from; }
  static void store(const Acc* from, Stored* to, std::int64_t n) { std::copy_n(from, n, to); }
};
struct Bf16 {
  using Stored = std::uint16_t;
  using Acc = float;
  static const Acc* load(const Stored* from, Acc* room, std::int64_t n) { return widen_bf16(from, room, n), room; }
  static void store(const Acc* from, Stored* to, std::int64_t n) { narrow_bf16(from, to, n); }
};
struct F16 {
  using Stored = std::uint16_t;
  using Acc = float;
  static const Acc* load(const Stored* from, Acc* room, std::int64_t n) { return widen_f16(from, room, n), room; }
  static void store(const Acc* from, Stored* to, std::int64_t n) { narrow_f16(from, to, n); }
};
using F32 = Plain<float>;
using F64 = Plain<double>;
using I64 = Plain<std::uint64_t>;  // unsigned, so that sums wrap around; compared as signed

template <ReduceOp op, class T>
T combine(T a, T b) {
  if constexpr (op == ReduceOp::sum) {
    return a + b;
  } else if constexpr (std::is_same_v<T, std::uint64_t>) {
    const auto x = static_cast<std::int64_t>(a);
    const auto y = static_cast<std::int64_t>(b);
    return static_cast<T>(op == ReduceOp::max ? std::max(x, y) : std::min(x, y));
  } else {  // a NaN on either side wins
    if constexpr (op == ReduceOp::max) return (a > b || a != a) ? a : b;
    return (a < b || a != a) ? a : b;
  }
}

template <class Format, ReduceOp op>
void reduce(std::span<const void* const> sources, void* out, std::int64_t count) {
  using Stored = typename Format::Stored;
  using Acc = typename Format::Acc;
  alignas(64) Acc acc[kBlock];
  alignas(64) Acc room[kBlock];
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const std::int64_t n = std::min(kBlock, count - begin);
    const auto block = [&](const void* source) {
      return Format::load(static_cast<const Stored*>(source) + begin, room, n);
    };
    std::copy_n(block(sources[0]), n, acc);
    for (const void* source : sources.subspan(1)) {
      const Acc* next = block(source);
      for (std::int64_t i = 0; i < n; ++i) acc[i] = combine<op, Acc>(acc[i], next[i]);
    }
    Format::store(acc, static_cast<Stored*>(out) + begin, n);
  }
}

template <class Format>
void dispatch(ReduceOp op, std::span<const void* const> sources, void* out, std::int64_t count) {
  switch (op) {
    case ReduceOp::sum:
      return reduce<Format, ReduceOp::sum>(sources, out, count);
    case ReduceOp::max:
      return reduce<Format, ReduceOp::max>(sources, out, count);
    case ReduceOp::min:
      return reduce<Format, ReduceOp::min>(sources, out, count);
  }
}

}  // namespace

void reduce_in_order(DType type, ReduceOp op, std::span<const void* const> sources, void* out, std::int64_t count) {
  switch (type) {
    case DType::f32:
      return dispatch<F32>(op, sources, out, count);
    case DType::f64:
      return dispatch<F64>(op, sources, out, count);
    case DType::bf16:
      return dispatch<Bf16>(op, sources, out, count);
    case DType::f16:
      return dispatch<F16>(op, sources, out, count);
    case DType::i64:
      return dispatch<I64>(op, sources, out, count);
    case DType::bytes:
      break;
  }
  throw RunError("comm: raw bytes cannot be reduced");
}

}  // namespace tessera::comm
