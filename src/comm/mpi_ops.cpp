#include "comm/mpi_ops.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "comm/mpi_check.hpp"
#include "comm/reduce_local.hpp"

namespace tessera::comm {

// --- Messages
// -----------------------------------------------------------------------------------------------------------

void Messages::check(int code, const char* call) const {
  check_mpi(code, place_.rank, place_.size, what_, call);
}

MPI_Request* Messages::add() {
  requests_.push_back(MPI_REQUEST_NULL);
  return &requests_.back();
}

void Messages::send(const std::byte* data, std::int64_t bytes, int peer) {
  for_each_piece(bytes, place_.max_message_bytes, [&](std::int64_t begin, std::int64_t n) {
    check(MPI_Isend(data + begin, static_cast<int>(n), MPI_BYTE, peer, place_.tag, place_.comm, add()), "MPI_Isend");
  });
}

void Messages::receive(std::byte* data, std::int64_t bytes, int peer) {
  for_each_piece(bytes, place_.max_message_bytes, [&](std::int64_t begin, std::int64_t n) {
    check(MPI_Irecv(data + begin, static_cast<int>(n), MPI_BYTE, peer, place_.tag, place_.comm, add()), "MPI_Irecv");
  });
}

bool Messages::done() {
  if (requests_.empty()) return true;
  int all = 0;
  check(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &all, MPI_STATUSES_IGNORE), "MPI_Testall");
  if (all != 0) requests_.clear();
  return all != 0;
}

namespace {

constexpr std::int64_t kSmallBytes = 16 * 1024;  // below, an all_reduce is one exchange of everything

class OpBase : public MpiOp {
 protected:
  OpBase(const MpiPlace& place, Ticket ticket) : place_(place), ticket_(std::move(ticket)) {}
  int to(int step) const { return (place_.rank + step) % place_.size; }
  int from(int step) const { return (place_.rank + place_.size - step) % place_.size; }
  Step finished() {
    ticket_.finish();
    return Step::done;
  }
  Step done_when(bool all) { return all ? finished() : Step::idle; }

  MpiPlace place_;
  Ticket ticket_;
};

// --- phases, shared by the collectives
// ------------------------------------------------------------------------------------

/// Every rank's slot of `full` to every other rank. `own` is this rank's slot, wherever it lies.
void post_gather(Messages& messages, const MpiPlace& place, const Slots& slots, const std::byte* own, std::byte* full,
                 std::int64_t width) {
  for (int step = 1; step < place.size; ++step) {
    const int source = (place.rank + place.size - step) % place.size;
    messages.receive(full + slots.offset(source) * width, slots.length(source) * width, source);
  }
  for (int step = 1; step < place.size; ++step) {
    messages.send(own, slots.length(place.rank) * width, (place.rank + step) % place.size);
  }
}

/// Pairwise exchange in segments with a local reduction in rank order. At most kWindow segments are under way, so
/// scratch is kWindow * (size-1) segments whatever the count. All ranks walk through the same segment numbers; a rank
/// whose slot is shorter has empty messages at the end, which are not sent. With `accumulate`, what `out` holds is the
/// first term of each sum.
class ReducePhase {
 public:
  ReducePhase(const MpiPlace& place, const Slots& slots, const std::byte* full, std::byte* out, DType type, ReduceOp op,
              const std::string& what, bool accumulate = false)
      : place_(place),
        slots_(slots),
        full_(full),
        out_(out),
        type_(type),
        op_(op),
        accumulate_(accumulate),
        width_(width_of(type)) {
    segment_ = std::max<std::int64_t>(1, std::min(place.segment_bytes, place.max_message_bytes) / width_);
    segment_ = std::min(segment_, std::max<std::int64_t>(1, slots.stride));
    segments_ = (slots.stride + segment_ - 1) / segment_;
    const std::int64_t fit = place.scratch_bytes / (segment_ * width_ * std::max(1, place.size - 1));
    window_count_ = std::clamp<std::int64_t>(fit, 2, 64);
    const auto windows = static_cast<std::size_t>(std::min(window_count_, segments_));
    windows_ = std::vector<Messages>(windows, Messages(place_, what));
    const std::int64_t own = std::min(segment_, slots.length(place.rank));
    scratch_stride_ = own * width_;
    scratch_ = std::make_unique_for_overwrite<std::byte[]>(
        windows * static_cast<std::size_t>((place.size - 1) * scratch_stride_));
  }

  Step advance() {
    const std::int64_t before = reduced_;
    while (reduced_ < segments_) {
      while (posted_ < segments_ && posted_ - reduced_ < window_count_) post(posted_++);
      if (!window(reduced_).done()) return reduced_ > before ? Step::moved : Step::idle;
      reduce(reduced_++);
    }
    return Step::done;
  }

 private:
  static std::int64_t width_of(DType type) { return static_cast<std::int64_t>(size_of(type)); }

  Messages& window(std::int64_t segment) { return windows_[static_cast<std::size_t>(segment % window_count_)]; }
  std::int64_t length(int slot, std::int64_t segment) const {
    return std::clamp<std::int64_t>(slots_.length(slot) - segment * segment_, 0, segment_);
  }
  const std::byte* at(int slot, std::int64_t segment) const {
    return full_ + (slots_.offset(slot) + segment * segment_) * width_;
  }
  std::byte* scratch(int source, std::int64_t segment) {
    const int index = source < place_.rank ? source : source - 1;
    return scratch_.get() + ((segment % window_count_) * (place_.size - 1) + index) * scratch_stride_;
  }

  void post(std::int64_t segment) {
    Messages& messages = window(segment);
    const std::int64_t own = length(place_.rank, segment) * width_;
    for (int step = 1; step < place_.size; ++step) {
      const int source = (place_.rank + place_.size - step) % place_.size;
      messages.receive(scratch(source, segment), own, source);
    }
    for (int step = 1; step < place_.size; ++step) {
      const int peer = (place_.rank + step) % place_.size;
      messages.send(at(peer, segment), length(peer, segment) * width_, peer);
    }
  }

  void reduce(std::int64_t segment) {
    const std::int64_t own = length(place_.rank, segment);
    if (own == 0) return;
    std::byte* out = out_ + segment * segment_ * width_;
    std::vector<const void*> sources;
    sources.reserve(static_cast<std::size_t>(place_.size) + 1);
    if (accumulate_) sources.push_back(out);
    for (int r = 0; r < place_.size; ++r) sources.push_back(r == place_.rank ? at(r, segment) : scratch(r, segment));
    reduce_in_order(type_, op_, sources, out, own);
  }

  const MpiPlace& place_;
  Slots slots_;
  const std::byte* full_;
  std::byte* out_;
  DType type_;
  ReduceOp op_;
  bool accumulate_;
  std::int64_t width_;
  std::int64_t segment_ = 0;   // elements
  std::int64_t segments_ = 0;  // of a full slot
  std::int64_t window_count_ = 2;
  std::int64_t posted_ = 0;
  std::int64_t reduced_ = 0;
  std::vector<Messages> windows_;
  std::int64_t scratch_stride_ = 0;  // bytes of one source in one window
  std::unique_ptr<std::byte[]> scratch_;
};

// --- the collectives
// --------------------------------------------------------------------------------------------------------

class AllGather final : public OpBase {
 public:
  AllGather(const MpiPlace& place, ConstBuffer shard, Buffer full, Ticket ticket)
      : OpBase(place, std::move(ticket)), messages_(place_, ticket_.what()) {
    const auto width = static_cast<std::int64_t>(size_of(full.type));
    const auto* own = static_cast<const std::byte*>(shard.data);
    auto* all = static_cast<std::byte*>(full.data);
    post_gather(messages_, place_, {shard.count, full.count}, own, all, width);
    std::byte* slot = all + shard.count * width * place_.rank;
    if (shard.count > 0 && slot != own) std::memcpy(slot, own, static_cast<std::size_t>(shard.count * width));
  }
  Step advance() override { return done_when(messages_.done()); }

 private:
  Messages messages_;
};

class ReduceScatter final : public OpBase {
 public:
  ReduceScatter(const MpiPlace& place, ConstBuffer full, Buffer shard, ReduceOp op, bool accumulate, Ticket ticket)
      : OpBase(place, std::move(ticket)),
        phase_(place_, {shard.count, full.count}, static_cast<const std::byte*>(full.data),
               static_cast<std::byte*>(shard.data), full.type, op, ticket_.what(), accumulate) {}
  Step advance() override {
    const Step step = phase_.advance();
    return step == Step::done ? finished() : step;
  }

 private:
  ReducePhase phase_;
};

/// A reduce-scatter into the rank's own slot, then an all-gather, both in place.
class LargeAllReduce final : public OpBase {
 public:
  LargeAllReduce(const MpiPlace& place, Buffer data, ReduceOp op, Ticket ticket)
      : OpBase(place, std::move(ticket)),
        slots_{(data.count + place.size - 1) / place.size, data.count},
        data_(static_cast<std::byte*>(data.data)),
        width_(static_cast<std::int64_t>(size_of(data.type))),
        own_(data_ + slots_.offset(place.rank) * width_),
        reduce_(place_, slots_, data_, own_, data.type, op, ticket_.what()),
        gather_(place_, ticket_.what()) {}

  Step advance() override {
    if (gathering_) return done_when(gather_.done());
    const Step step = reduce_.advance();
    if (step != Step::done) return step;
    post_gather(gather_, place_, slots_, own_, data_, width_);
    gathering_ = true;
    return Step::moved;
  }

 private:
  Slots slots_;
  std::byte* data_;
  std::int64_t width_;
  std::byte* own_;
  ReducePhase reduce_;
  Messages gather_;
  bool gathering_ = false;
};

/// Everybody's data to everybody, then the same reduction on every rank: half the latency of the two phases.
class SmallAllReduce final : public OpBase {
 public:
  SmallAllReduce(const MpiPlace& place, Buffer data, ReduceOp op, Ticket ticket)
      : OpBase(place, std::move(ticket)), data_(data), op_(op), messages_(place_, ticket_.what()) {
    const auto bytes = data.count * static_cast<std::int64_t>(size_of(data.type));
    all_.resize(static_cast<std::size_t>(bytes * place.size));
    post_gather(messages_, place_, {bytes, bytes * place.size}, static_cast<const std::byte*>(data.data), all_.data(),
                1);
  }
  Step advance() override {
    if (!messages_.done()) return Step::idle;
    const std::size_t bytes = all_.size() / static_cast<std::size_t>(place_.size);
    std::vector<const void*> sources(static_cast<std::size_t>(place_.size));
    for (std::size_t r = 0; r < sources.size(); ++r) sources[r] = all_.data() + r * bytes;
    sources[static_cast<std::size_t>(place_.rank)] = data_.data;
    reduce_in_order(data_.type, op_, sources, data_.data, data_.count);
    return finished();
  }

 private:
  Buffer data_;
  ReduceOp op_;
  Messages messages_;
  std::vector<std::byte> all_;
};

class Broadcast final : public OpBase {
 public:
  Broadcast(const MpiPlace& place, Buffer data, int root, Ticket ticket)
      : OpBase(place, std::move(ticket)), messages_(place_, ticket_.what()) {
    const auto bytes = data.count * static_cast<std::int64_t>(size_of(data.type));
    auto* at = static_cast<std::byte*>(data.data);
    for_each_piece(bytes, place_.max_message_bytes, [&](std::int64_t begin, std::int64_t n) {
      messages_.check(MPI_Ibcast(at + begin, static_cast<int>(n), MPI_BYTE, root, place_.comm, messages_.add()),
                      "MPI_Ibcast");
    });
  }
  Step advance() override { return done_when(messages_.done()); }

 private:
  Messages messages_;
};

class Barrier final : public OpBase {
 public:
  Barrier(const MpiPlace& place, Ticket ticket) : OpBase(place, std::move(ticket)), messages_(place_, ticket_.what()) {
    messages_.check(MPI_Ibarrier(place_.comm, messages_.add()), "MPI_Ibarrier");
  }
  Step advance() override { return done_when(messages_.done()); }

 private:
  Messages messages_;
};

}  // namespace

std::shared_ptr<MpiOp> make_all_gather(const MpiPlace& place, ConstBuffer shard, Buffer full, Ticket ticket) {
  return std::make_shared<AllGather>(place, shard, full, std::move(ticket));
}

std::shared_ptr<MpiOp> make_reduce_scatter(const MpiPlace& place, ConstBuffer full, Buffer shard, ReduceOp op,
                                           Ticket ticket) {
  return std::make_shared<ReduceScatter>(place, full, shard, op, false, std::move(ticket));
}

std::shared_ptr<MpiOp> make_reduce_scatter_add(const MpiPlace& place, ConstBuffer full, Buffer acc, Ticket ticket) {
  return std::make_shared<ReduceScatter>(place, full, acc, ReduceOp::sum, true, std::move(ticket));
}

std::shared_ptr<MpiOp> make_all_reduce(const MpiPlace& place, Buffer data, ReduceOp op, Ticket ticket) {
  const auto bytes = data.count * static_cast<std::int64_t>(size_of(data.type));
  if (bytes <= kSmallBytes) return std::make_shared<SmallAllReduce>(place, data, op, std::move(ticket));
  return std::make_shared<LargeAllReduce>(place, data, op, std::move(ticket));
}

std::shared_ptr<MpiOp> make_broadcast(const MpiPlace& place, Buffer data, int root, Ticket ticket) {
  return std::make_shared<Broadcast>(place, data, root, std::move(ticket));
}

std::shared_ptr<MpiOp> make_barrier(const MpiPlace& place, Ticket ticket) {
  return std::make_shared<Barrier>(place, std::move(ticket));
}

}  // namespace tessera::comm
