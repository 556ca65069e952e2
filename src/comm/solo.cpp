#include "tessera/comm/solo.hpp"

#include <array>
#include <cstring>

#include "comm/reduce_local.hpp"
#include "tessera/comm/flight.hpp"

namespace tessera::comm {
namespace {

class SoloCommunicator final : public Communicator {
 public:
  SoloCommunicator(std::string_view name, std::shared_ptr<FlightRing> flight) : Communicator(name, std::move(flight)) {}
  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 1; }
  std::string_view transport() const noexcept override { return "solo"; }
  void close() override {}

 protected:
  StatePtr do_all_gather(ConstBuffer shard, Buffer full, Ticket ticket) override { return copy(shard, full, ticket); }
  StatePtr do_reduce_scatter(ConstBuffer full, Buffer shard, ReduceOp, Ticket ticket) override {
    return copy(full, shard, ticket);
  }
  StatePtr do_reduce_scatter_add(ConstBuffer full, Buffer acc, Ticket ticket) override {
    const std::array<const void*, 2> terms{acc.data, full.data};
    reduce_in_order(acc.type, ReduceOp::sum, terms, acc.data, acc.count);
    return done(ticket);
  }
  StatePtr do_all_reduce(Buffer, ReduceOp, Ticket ticket) override { return done(ticket); }
  StatePtr do_broadcast(Buffer, int, Ticket ticket) override { return done(ticket); }
  void do_barrier(Ticket ticket) override { ticket.finish(); }
  std::unique_ptr<Communicator> do_split(int, int, std::string_view name, Ticket ticket) override {
    ticket.finish();
    return std::make_unique<SoloCommunicator>(name, flight());
  }

 private:
  static StatePtr done(Ticket& ticket) {
    ticket.finish();
    return nullptr;  // a Pending without a state is one that has ended
  }
  static StatePtr copy(ConstBuffer from, Buffer to, Ticket& ticket) {
    const auto bytes = static_cast<std::size_t>(from.count) * size_of(from.type);
    if (bytes != 0 && from.data != to.data) std::memcpy(to.data, from.data, bytes);
    return done(ticket);
  }
};

}  // namespace

std::unique_ptr<Communicator> make_solo(std::string_view name) {
  return std::make_unique<SoloCommunicator>(name, std::make_shared<FlightRing>());
}

}  // namespace tessera::comm
