#include "tessera/comm/agree.hpp"

#include <algorithm>

#include "tessera/core/error.hpp"

namespace tessera::comm {

namespace {
template <class E>
[[noreturn]] void throw_everywhere(const std::string& text) {
  E error("{}", text);
  error.mark_everywhere();
  throw error;
}
}  // namespace

std::vector<std::string> gather_texts(Communicator& comm, const std::string& mine) {
  const auto ranks = static_cast<std::size_t>(comm.size());
  auto size = static_cast<std::int64_t>(mine.size());
  std::vector<std::int64_t> sizes(ranks);
  comm.all_gather({&size, 1, DType::i64}, {sizes.data(), static_cast<std::int64_t>(ranks), DType::i64});
  const auto longest = static_cast<std::size_t>(*std::max_element(sizes.begin(), sizes.end()));
  std::vector<std::string> texts(ranks);
  if (longest == 0) return texts;
  std::string padded = mine;
  padded.resize(longest);
  std::string all(longest * ranks, '\0');
  comm.all_gather({padded.data(), static_cast<std::int64_t>(longest), DType::bytes},
                  {all.data(), static_cast<std::int64_t>(all.size()), DType::bytes});
  for (std::size_t r = 0; r < ranks; ++r) texts[r] = all.substr(r * longest, static_cast<std::size_t>(sizes[r]));
  return texts;
}

std::string broadcast_text(Communicator& comm, const std::string& text, int root) {
  auto size = static_cast<std::int64_t>(text.size());
  comm.broadcast({&size, 1, DType::i64}, root);
  std::string out = comm.rank() == root ? text : std::string(static_cast<std::size_t>(size), '\0');
  comm.broadcast({out.data(), size, DType::bytes}, root);
  return out;
}

void agree(Communicator& comm, std::exception_ptr mine) {
  std::string report;  // first letter: kind of the error
  if (mine) {
    try {
      std::rethrow_exception(mine);
    } catch (const RequestError& error) {
      report = std::string("q") + error.what();
    } catch (const std::exception& error) {
      report = std::string("r") + error.what();
    }
  }
  for (const auto& text : gather_texts(comm, report)) {
    if (text.empty()) continue;
    if (text.front() == 'q') throw_everywhere<RequestError>(text.substr(1));
    throw_everywhere<RunError>(text.substr(1));
  }
}

}  // namespace tessera::comm
