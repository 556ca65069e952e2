#pragma once
/// Small collectives over texts and outcomes, by which ranks that work apart agree on what they found. Host memory: use
/// the control communicator. All of it is collective.
#include <exception>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tessera/comm/communicator.hpp"

namespace tessera::comm {

/// The text of every rank, by rank.
std::vector<std::string> gather_texts(Communicator& comm, const std::string& mine);

/// Rank root's text on every rank.
std::string broadcast_text(Communicator& comm, const std::string& text, int root = 0);

/// Ends work that ranks did apart: returns when no rank failed, otherwise throws the same error on every rank, that of
/// the lowest rank that failed (RequestError if it was one, RunError otherwise).
void agree(Communicator& comm, std::exception_ptr mine);

/// Runs `work` on every rank, then agrees: an error on one rank is thrown on all. `work` must not communicate.
template <class F>
void on_every_rank(Communicator& comm, F&& work) {
  std::exception_ptr mine;
  try {
    std::forward<F>(work)();
  } catch (...) {
    mine = std::current_exception();
  }
  agree(comm, mine);
}

/// What `make` returns on this rank, once every rank has made its own; an error on one is thrown on all.
template <class F>
auto made_everywhere(Communicator& comm, F&& make) {
  std::optional<decltype(make())> made;
  on_every_rank(comm, [&] { made.emplace(std::forward<F>(make)()); });
  return std::move(*made);
}

/// on_every_rank with `work` on rank 0 alone. `work` must not communicate.
template <class F>
void on_rank_zero(Communicator& comm, F&& work) {
  on_every_rank(comm, [&] {
    if (comm.rank() == 0) std::forward<F>(work)();
  });
}

}  // namespace tessera::comm
