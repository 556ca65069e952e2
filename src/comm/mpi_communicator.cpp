#include "comm/mpi_communicator.hpp"

#include <fmt/format.h>

#include "comm/mpi_check.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {
namespace {

class MpiState final : public Pending::State {
 public:
  MpiState(std::shared_ptr<MpiEngine> engine, std::shared_ptr<MpiOp> op)
      : engine_(std::move(engine)), op_(std::move(op)) {}
  void wait() override { engine_->wait(*op_); }
  bool test() override { return engine_->test(*op_) == Step::done; }

 private:
  std::shared_ptr<MpiEngine> engine_;
  std::shared_ptr<MpiOp> op_;
};

}  // namespace

MpiCommunicator::MpiCommunicator(std::shared_ptr<MpiEngine> engine, std::shared_ptr<FlightRing> flight, MPI_Comm comm,
                                 std::string_view name)
    : Communicator(name, std::move(flight)), engine_(std::move(engine)) {
  place_.comm = comm;
  place_.max_message_bytes = engine_->options().max_message_bytes;
  place_.segment_bytes = engine_->options().segment_bytes;
  place_.scratch_bytes = engine_->options().scratch_bytes;
  engine_->locked([&] {
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    check_mpi(MPI_Comm_rank(comm, &place_.rank), 0, 0, name, "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(comm, &place_.size), place_.rank, 0, name, "MPI_Comm_size");
    int* bound = nullptr;
    int found = 0;
    MPI_Comm_get_attr(comm, MPI_TAG_UB, static_cast<void*>(&bound), &found);
    if (found != 0) max_tag_ = *bound;
  });
}

template <class Make>
std::shared_ptr<MpiOp> MpiCommunicator::start(Make&& make, const Ticket& ticket) {
  if (place_.comm == MPI_COMM_NULL) throw RunError("comm: {}: the communicator is closed", ticket.what());
  auto op = engine_->start(std::forward<Make>(make));
  place_.tag = place_.tag == max_tag_ ? 0 : place_.tag + 1;
  std::erase_if(in_flight_, [](const auto& weak) {
    const auto other = weak.lock();
    return !other;
  });
  in_flight_.push_back(op);
  return op;
}

Communicator::StatePtr MpiCommunicator::do_all_gather(ConstBuffer shard, Buffer full, Ticket ticket) {
  return std::make_unique<MpiState>(engine_,
                                    start([&] { return make_all_gather(place_, shard, full, ticket); }, ticket));
}

Communicator::StatePtr MpiCommunicator::do_reduce_scatter(ConstBuffer full, Buffer shard, ReduceOp op, Ticket ticket) {
  return std::make_unique<MpiState>(
      engine_, start([&] { return make_reduce_scatter(place_, full, shard, op, ticket); }, ticket));
}

Communicator::StatePtr MpiCommunicator::do_reduce_scatter_add(ConstBuffer full, Buffer acc, Ticket ticket) {
  return std::make_unique<MpiState>(engine_,
                                    start([&] { return make_reduce_scatter_add(place_, full, acc, ticket); }, ticket));
}

Communicator::StatePtr MpiCommunicator::do_all_reduce(Buffer data, ReduceOp op, Ticket ticket) {
  return std::make_unique<MpiState>(engine_, start([&] { return make_all_reduce(place_, data, op, ticket); }, ticket));
}

Communicator::StatePtr MpiCommunicator::do_broadcast(Buffer data, int root, Ticket ticket) {
  return std::make_unique<MpiState>(engine_, start([&] { return make_broadcast(place_, data, root, ticket); }, ticket));
}

void MpiCommunicator::do_barrier(Ticket ticket) {
  const auto op = start([&] { return make_barrier(place_, ticket); }, ticket);
  engine_->wait(*op);
}

void MpiCommunicator::drain() {
  for (const auto& weak : in_flight_) {
    if (const auto op = weak.lock()) engine_->wait(*op);
  }
  in_flight_.clear();
}

/// MPI_Comm_split blocks without advancing our collectives, so everyone completes those first and meets in a barrier.
std::unique_ptr<Communicator> MpiCommunicator::do_split(int color, int key, std::string_view name, Ticket ticket) {
  if (place_.comm == MPI_COMM_NULL) throw RunError("comm: {}: the communicator is closed", ticket.what());
  drain();
  const auto meet = start([&] { return make_barrier(place_, Ticket{}); }, ticket);
  engine_->wait(*meet);
  MPI_Comm part = MPI_COMM_NULL;
  engine_->locked([&] {
    check_mpi(MPI_Comm_split(place_.comm, color, key, &part), place_.rank, place_.size, ticket.what(),
              "MPI_Comm_split");
  });
  ticket.finish();
  return std::make_unique<MpiCommunicator>(engine_, flight(), part, name);
}

void MpiCommunicator::close() {
  if (place_.comm == MPI_COMM_NULL) return;
  drain();
  const auto meet = start([&] { return make_barrier(place_, Ticket{}); }, Ticket{});
  engine_->wait(*meet);
  engine_->locked([&] {
    check_mpi(MPI_Comm_free(&place_.comm), place_.rank, place_.size, fmt::format("{}: close", name()), "MPI_Comm_free");
  });
  place_.comm = MPI_COMM_NULL;
}

std::unique_ptr<Communicator> make_mpi(MpiEnv& env) {
  MPI_Comm comm = MPI_COMM_NULL;
  env.engine()->locked(
      [&] { check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm), env.rank(), env.size(), "world", "MPI_Comm_dup"); });
  return std::make_unique<MpiCommunicator>(env.engine(), env.flight(), comm, "world");
}

}  // namespace tessera::comm
