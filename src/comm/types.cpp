#include "tessera/comm/types.hpp"

#include <fmt/format.h>

namespace tessera::comm {

std::size_t size_of(DType type) noexcept {
  switch (type) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::bytes:
      return 1;
  }
  return 0;
}

std::string_view name_of(DType type) noexcept {
  switch (type) {
    case DType::f32:
      return "f32";
    case DType::f64:
      return "f64";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::i64:
      return "i64";
    case DType::bytes:
      return "bytes";
  }
  return "?";
}

std::string_view name_of(ReduceOp op) noexcept {
  switch (op) {
    case ReduceOp::sum:
      return "sum";
    case ReduceOp::max:
      return "max";
    case ReduceOp::min:
      return "min";
  }
  return "?";
}

std::string_view name_of(Operation operation) noexcept {
  switch (operation) {
    case Operation::all_gather:
      return "all_gather";
    case Operation::reduce_scatter:
      return "reduce_scatter";
    case Operation::reduce_scatter_add:
      return "reduce_scatter_add";
    case Operation::all_reduce:
      return "all_reduce";
    case Operation::broadcast:
      return "broadcast";
    case Operation::barrier:
      return "barrier";
    case Operation::split:
      return "split";
  }
  return "?";
}

std::string describe(const Call& call) {
  switch (call.operation) {
    case Operation::barrier:
    case Operation::split:
      return std::string(name_of(call.operation));
    case Operation::all_gather:
    case Operation::reduce_scatter_add:
      return fmt::format("{} of {} {}", name_of(call.operation), call.count, name_of(call.type));
    case Operation::broadcast:
      return fmt::format("broadcast of {} {} from rank {}", call.count, name_of(call.type), call.root);
    case Operation::reduce_scatter:
    case Operation::all_reduce:
      return fmt::format("{} of {} {} ({})", name_of(call.operation), call.count, name_of(call.type), name_of(call.op));
  }
  return "?";
}

}  // namespace tessera::comm
