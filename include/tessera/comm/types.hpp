#pragma once
/// Types that all of comm shares: element types, reductions, buffers, and the description of one call.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tessera::comm {

enum class DType : std::uint8_t { f32, f64, bf16, f16, i64, bytes };
std::size_t size_of(DType type) noexcept;
std::string_view name_of(DType type) noexcept;

/// Floating maxima and minima are NaN where any rank's element is NaN. `bytes` cannot be reduced.
enum class ReduceOp : std::uint8_t { sum, max, min };
std::string_view name_of(ReduceOp op) noexcept;

enum class Operation : std::uint8_t {
  all_gather,
  reduce_scatter,
  reduce_scatter_add,  ///< counted as "reduce_scatter"
  all_reduce,
  broadcast,
  barrier,
  split
};
std::string_view name_of(Operation operation) noexcept;

/// Memory of one rank that takes part: address, elements, type. Host memory for MPI, device memory for NCCL.
struct Buffer {
  void* data = nullptr;
  std::int64_t count = 0;
  DType type = DType::f32;
};
struct ConstBuffer {
  ConstBuffer() = default;
  ConstBuffer(const void* d, std::int64_t n, DType t) : data(d), count(n), type(t) {}
  ConstBuffer(const Buffer& b) : data(b.data), count(b.count), type(b.type) {}  // NOLINT(google-explicit-constructor)
  const void* data = nullptr;
  std::int64_t count = 0;
  DType type = DType::f32;
};

/// What every rank of a group must agree on: the call as the others must make it too.
struct Call {
  Operation operation = Operation::barrier;
  std::int64_t count = 0;  ///< elements of the larger buffer
  DType type = DType::bytes;
  ReduceOp op = ReduceOp::sum;  ///< reductions only
  int root = -1;                ///< broadcast only
  bool operator==(const Call&) const = default;
};

/// `reduce_scatter of 4096 f32 (sum)`
std::string describe(const Call& call);

}  // namespace tessera::comm
