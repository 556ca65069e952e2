#include "shard/group.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "tessera/core/error.hpp"

namespace tessera::shard {

comm::DType comm_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return comm::DType::f32;
    case at::kDouble:
      return comm::DType::f64;
    case at::kBFloat16:
      return comm::DType::bf16;
    case at::kHalf:
      return comm::DType::f16;
    case at::kLong:
      return comm::DType::i64;
    case at::kByte:
      return comm::DType::bytes;
    default:
      throw RunError("shard: no collective moves tensors of type {}", c10::toString(type));
  }
}

comm::Buffer buffer_of(const at::Tensor& flat) {
  return {flat.mutable_data_ptr(), flat.numel(), comm_type(flat.scalar_type())};
}

JobShape shape_of(const comm::Fabric& fabric) noexcept {
  return {fabric.size(), fabric.nodes()};
}

namespace {

at::Tensor tensor_over(const BufferPool::Block& block, std::int64_t elements, at::ScalarType type, c10::Device device) {
  return at::from_blob(block.data(), {elements}, at::TensorOptions().dtype(type).device(device));
}

std::vector<std::int64_t> contiguous_strides(const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> strides(shape.size());
  std::int64_t step = 1;
  for (std::size_t d = strides.size(); d-- > 0;) {
    strides[d] = step;
    step *= shape[d];
  }
  return strides;
}

}  // namespace

Group::Group(const GroupPart& part, const comm::Fabric& fabric, const CopyStream& copies)
    : spec_(part.spec), fabric_(&fabric), copies_(&copies), layout_(part.layout(fabric.size())) {
  const auto& spec = spec_;
  const auto job = shape_of(fabric);
  sizes_ = sizes_of(layout_, spec, job);
  parts_ = spec.parts(job);
  const bool in_node = !spec.trained && spec.placement == Placement::node;
  part_ = parts_ == 1 ? 0 : in_node ? fabric.node_rank() : fabric.rank();
  const bool pinned = spec.on_host && !spec.device.is_cpu();
  const auto home =
      at::TensorOptions().device(spec.on_host ? c10::Device(c10::DeviceType::CPU) : spec.device).pinned_memory(pinned);
  const auto slice = spec.quantised() ? segment_bytes(spec, layout_.slice()) : layout_.slice();
  shard_ = at::zeros({slice * (fabric.size() / parts_)}, home.dtype(spec.home_type()));
  if (spec.quantised()) packing_.emplace(spec_, layout_);
  if (spec.trained)
    grad_shard_ = at::zeros({layout_.slice()}, at::TensorOptions().device(spec.device).dtype(at::kFloat));
  whole_ = sizes_.gather == 0 && !spec.quantised();
  make_views();
  if (whole_) state_ = State::gathered;
}

void Group::make_views() {
  const at::NoGradGuard no_grad;
  const auto options = at::TensorOptions().device(spec_.device).dtype(spec_.compute);
  at::Tensor carrier = shard_;
  if (!whole_) {
    carrier = at::empty({0}, options);
    carrier.storage().unsafeGetStorageImpl()->set_resizable(false);
    carrier.storage().set_nbytes(static_cast<std::size_t>(layout_.full()) * c10::elementSize(spec_.compute));
  }
  storage_ = carrier.storage();
  for (const auto& placed : layout_.tensors()) {
    at::Tensor view = at::empty({0}, options);
    view.set_(storage_, placed.offset, placed.shape, contiguous_strides(placed.shape));
    if (spec_.trained) view.set_requires_grad(true);
    views_.push_back(std::move(view));
  }
}

at::Tensor Group::loaded() const {
  if (parts_ == fabric_->size()) return shard_;
  const auto slice = shard_.numel() / (fabric_->size() / parts_);
  return shard_.narrow(0, (parts_ == 1 ? fabric_->rank() : fabric_->node()) * slice, slice);
}

int Group::loaded_slice() const {
  if (parts_ == fabric_->size() || parts_ == 1) return fabric_->rank();
  return part_ * (fabric_->size() / parts_) + fabric_->node();
}

void Group::share_loaded(BufferPool& pool) {
  if (parts_ == fabric_->size()) return;
  comm::Communicator& comm = parts_ == 1 ? *fabric_->gather : *fabric_->cross_gather;
  const at::NoGradGuard no_grad;
  const at::Tensor mine = loaded();
  if (!spec_.on_host || spec_.device.is_cpu()) {
    comm.all_gather(buffer_of(mine), buffer_of(shard_));
    return;
  }
  const auto block = pool.take(static_cast<std::int64_t>(shard_.nbytes()));
  const at::Tensor staged = tensor_over(block, shard_.numel(), shard_.scalar_type(), spec_.device);
  const at::Tensor slot = staged.narrow(0, mine.storage_offset(), mine.numel());
  slot.copy_(mine);
  comm.all_gather(buffer_of(slot), buffer_of(staged));
  shard_.copy_(staged);
}

void Group::detach() {
  storage_.unsafeGetStorageImpl()->set_data_ptr_noswap(at::DataPtr(nullptr, storage_.device()));
}

void Group::attach(void* data) {
  // A non-owning pointer: the block stays with the group, so that releasing never depends on who still holds a view.
  storage_.unsafeGetStorageImpl()->set_data_ptr_noswap(at::DataPtr(
      data, data, [](void*) {}, storage_.device()));
}

at::Tensor Group::own_slot(const at::Tensor& full) const {
  return full.narrow(0, part_ * shard_.numel(), shard_.numel());
}

void Group::start_gather(BufferPool& pool) {
  if (state_ != State::released) return;
  if (sizes_.gather == 0) {  // quantised and whole: there is nothing to move
    state_ = State::gathering;
    return;
  }
  weights_ = pool.take(sizes_.gather);
  at::Tensor full = tensor_over(weights_, shard_.numel() * parts_, spec_.wire_type(), spec_.device);
  const at::NoGradGuard no_grad;
  auto gather_from = [&](const at::Tensor& source) {
    if (parts_ == 1) return;
    const bool in_node = !spec_.trained && spec_.placement == Placement::node;
    comm::Communicator& comm = in_node && fabric_->node_gather != nullptr ? *fabric_->node_gather : *fabric_->gather;
    gather_ = comm.start_all_gather(buffer_of(source), buffer_of(full));
  };
  // From host memory, or cast: into this rank's own slot, and gathered in place.
  auto fill_own_slot = [&] {
    const at::Tensor slot = own_slot(full);
    slot.copy_(shard_, /*non_blocking=*/true);
    gather_from(slot);
  };
  if (spec_.on_host) {
    copied_ = copies_->run(fill_own_slot);
  } else if (shard_.scalar_type() != spec_.wire_type()) {
    fill_own_slot();
  } else {
    gather_from(shard_);
  }
  state_ = State::gathering;
}

void Group::finish_gather() {
  if (state_ == State::gathering) {
    copies_->wait(copied_);
    copied_.reset();
    gather_.wait();
    if (!packing_) attach(weights_.data());
    state_ = State::gathered;
  }
  if (state_ != State::gathered) throw RunError("shard: a group is used before its gather was started");
}

void Group::release() {
  if (whole_ || state_ == State::released) return;
  if (state_ == State::gathering) finish_gather();
  collapse();
  detach();
  weights_.reset();
  state_ = State::released;
}

at::Tensor Group::gathered_bytes() const {
  return weights_ ? tensor_over(weights_, shard_.numel() * parts_, at::kByte, spec_.device) : shard_;
}

void Group::expand(BufferPool& pool) {
  if (!packing_ || expanded_) return;
  expanded_ = pool.take(sizes_.expanded);
  packing_->expand(gathered_bytes(), tensor_over(expanded_, layout_.full(), spec_.compute, spec_.device));
  attach(expanded_.data());
}

void Group::collapse() {
  if (!expanded_) return;
  detach();
  expanded_.reset();
}

void Group::bind_params() {
  for (std::size_t i = 0; i < views_.size(); ++i) layout_.tensors()[i].param->bind(views_[i]);
}

void Group::unbind_params() {
  for (const auto& placed : layout_.tensors()) placed.param->unbind();
}

void Group::open_grads(BufferPool& pool, int lanes) {
  if (!spec_.trained || grads_open_) return;
  const at::NoGradGuard no_grad;
  lanes_ = 1;
  next_lane_ = 0;
  if (whole_ && !spec_.separate_grads) {
    grad_full_ = grad_shard_;  // accumulates in place; end_step zeroes it
  } else {
    finish_reduce();  // of the micro-batch before, if it is still under way
    lanes_ = lanes;
    const auto elements = layout_.full() * lanes;
    grad_block_ = pool.take(elements * static_cast<std::int64_t>(c10::elementSize(spec_.compute)));
    grad_full_ = tensor_over(grad_block_, elements, spec_.compute, spec_.device);
    grad_full_.zero_();
  }
  grads_open_ = true;
  use_lane(0);
}

void Group::use_lane(int lane) {
  if (!grads_open_) return;
  const auto begin = layout_.full() * std::min(lane, lanes_ - 1);
  for (std::size_t i = 0; i < views_.size(); ++i) {
    const auto& placed = layout_.tensors()[i];
    views_[i].mutable_grad() = grad_full_.narrow(0, begin + placed.offset, placed.numel).view(placed.param->shape);
  }
}

void Group::start_reduce(BufferPool& pool, at::Tensor* norms) {
  if (!grads_open_) return;
  finish_reduce();
  const at::NoGradGuard no_grad;
  const bool adds_up_in_place = !grad_block_;
  at::Tensor lane = grad_full_.narrow(0, layout_.full() * next_lane_, layout_.full());
  const bool last = ++next_lane_ == lanes_;
  if (last) {
    grads_open_ = false;
    for (auto& view : views_) view.mutable_grad() = at::Tensor();
  }
  if (spec_.compute != at::kFloat) {  // reductions run in fp32 whatever the compute type
    wide_lane_ = pool.take(layout_.full() * 4);
    const at::Tensor wide = tensor_over(wide_lane_, layout_.full(), at::kFloat, spec_.device);
    wide.copy_(lane);
    lane = wide;
    if (last) drop_grads();
  }
  // A sum is not finite where a term is not. In host memory one pass says that all is well.
  if (!spec_.device.is_cpu() || !std::isfinite(at::sum(lane).item<double>())) {
    std::vector<at::Tensor> parts;
    for (const auto& placed : layout_.tensors()) parts.push_back(lane.narrow(0, placed.offset, placed.numel));
    *norms = at::stack(at::_foreach_norm(parts, 1));
  }
  if (fabric_->size() > 1) {
    reduce_ = fabric_->reduce->start_reduce_scatter_add(buffer_of(lane), buffer_of(grad_shard_));
  } else if (!adds_up_in_place) {
    grad_shard_.add_(lane);
  }
  reducing_ = true;
}

void Group::finish_reduce() {
  if (!reducing_) return;
  reduce_.wait();
  reducing_ = false;
  wide_lane_.reset();
  if (!grads_open_) drop_grads();
}

void Group::drop_grads() {
  grad_full_ = at::Tensor();
  grad_block_.reset();
}

}  // namespace tessera::shard
