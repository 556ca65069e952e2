#include "comm/mpi_check.hpp"

#include <array>

#include "tessera/core/error.hpp"

namespace tessera::comm {

void check_mpi(int code, int rank, int size, std::string_view what, std::string_view call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw CommError("comm: rank {}/{}: {}: {} says {}", rank, size, what, call,
                  std::string_view(text.data(), static_cast<std::size_t>(length)));
}

}  // namespace tessera::comm
