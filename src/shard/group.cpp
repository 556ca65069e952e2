#include "shard/group.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include "tessera/core/error.hpp"

namespace tessera::shard {

at::ScalarType scalar_type(ComputeType type) noexcept {
  switch (type) {
    case ComputeType::bf16:
      return at::kBFloat16;
    case ComputeType::f16:
      return at::kHalf;
    case ComputeType::f32:
      break;
  }
  return at::kFloat;
}

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

namespace {
at::Tensor tensor_over(const BufferPool::Block& block, std::int64_t elements, at::ScalarType type, c10::Device device) {
  return at::from_blob(block.data(), {elements}, at::TensorOptions().dtype(type).device(device));
}
}  // namespace

Group::Group(std::vector<nn::Param> params, bool trained, at::ScalarType compute, c10::Device device, int rank,
             int world)
    : layout_(params, world), trained_(trained), compute_(compute), rank_(rank) {
  const auto options = at::TensorOptions().device(device);
  shard_ = at::zeros({layout_.slice()}, options.dtype(trained ? at::kFloat : compute));
  if (trained) grad_shard_ = at::zeros({layout_.slice()}, options.dtype(at::kFloat));
  whole_ = world == 1 && shard_.scalar_type() == compute;

  const at::NoGradGuard no_grad;
  at::Tensor carrier;
  if (whole_) {
    carrier = shard_;
  } else {
    carrier = at::empty({0}, options.dtype(compute));
    carrier.storage().unsafeGetStorageImpl()->set_resizable(false);
    carrier.storage().set_nbytes(static_cast<std::size_t>(layout_.full()) * c10::elementSize(compute));
  }
  storage_ = carrier.storage();
  for (const auto& placed : layout_.tensors()) {
    std::vector<std::int64_t> strides(placed.param->shape.size());
    std::int64_t step = 1;
    for (std::size_t d = strides.size(); d-- > 0;) {
      strides[d] = step;
      step *= placed.param->shape[d];
    }
    at::Tensor view = at::empty({0}, options.dtype(compute));
    view.set_(storage_, placed.offset, placed.param->shape, strides);
    if (trained) view.set_requires_grad(true);
    views_.push_back(std::move(view));
  }
  if (whole_) state_ = State::gathered;
}

void Group::attach(const BufferPool::Block& block) {
  // A non-owning pointer: the block stays with the group, so that releasing never depends on who still holds a view.
  storage_.unsafeGetStorageImpl()->set_data_ptr_noswap(at::DataPtr(
      block.data(), block.data(), [](void*) {}, storage_.device()));
}

void Group::start_gather(comm::Communicator& comm, BufferPool& pool) {
  if (state_ != State::released) return;
  const auto bytes = layout_.full() * static_cast<std::int64_t>(c10::elementSize(compute_));
  weights_ = pool.take(bytes);
  at::Tensor full = tensor_over(weights_, layout_.full(), compute_, shard_.device());
  const at::NoGradGuard no_grad;
  at::Tensor source = shard_;
  if (source.scalar_type() != compute_) {  // cast into this rank's own slot, then gather in place
    source = full.narrow(0, rank_ * layout_.slice(), layout_.slice());
    source.copy_(shard_);
  }
  gather_ = comm.start_all_gather(buffer_of(source), buffer_of(full));
  state_ = State::gathering;
}

void Group::finish_gather() {
  if (state_ == State::gathering) {
    gather_.wait();
    attach(weights_);
    state_ = State::gathered;
  }
  if (state_ != State::gathered) throw RunError("shard: a group is used before its gather was started");
}

void Group::release() {
  if (whole_) return;
  if (state_ == State::gathering) finish_gather();
  storage_.unsafeGetStorageImpl()->set_data_ptr_noswap(at::DataPtr(nullptr, storage_.device()));
  weights_.reset();
  state_ = State::released;
}

void Group::bind_params() {
  for (std::size_t i = 0; i < views_.size(); ++i) layout_.tensors()[i].param->bind(views_[i]);
}

void Group::unbind_params() {
  for (const auto& placed : layout_.tensors()) placed.param->unbind();
}

void Group::open_grads(BufferPool& pool) {
  if (!trained_ || grads_open_) return;
  const at::NoGradGuard no_grad;
  if (whole_) {
    grad_full_ = grad_shard_;  // accumulates in place; end_step zeroes it
  } else {
    const auto bytes = layout_.full() * static_cast<std::int64_t>(c10::elementSize(compute_));
    grad_block_ = pool.take(bytes);
    grad_full_ = tensor_over(grad_block_, layout_.full(), compute_, shard_.device());
    grad_full_.zero_();
  }
  for (std::size_t i = 0; i < views_.size(); ++i) {
    const auto& placed = layout_.tensors()[i];
    views_[i].mutable_grad() = grad_full_.narrow(0, placed.offset, placed.numel).view(placed.param->shape);
  }
  grads_open_ = true;
}

void Group::start_reduce(comm::Communicator& comm, BufferPool& pool) {
  if (!grads_open_) return;
  grads_open_ = false;
  for (auto& view : views_) view.mutable_grad() = at::Tensor();
  if (whole_) {
    grad_full_ = at::Tensor();
    return;
  }
  const at::NoGradGuard no_grad;
  if (compute_ != at::kFloat) {  // reductions run in fp32 whatever the compute type
    BufferPool::Block wide = pool.take(layout_.full() * 4);
    at::Tensor full32 = tensor_over(wide, layout_.full(), at::kFloat, shard_.device());
    full32.copy_(grad_full_);
    grad_full_ = full32;
    grad_block_ = wide;
  }
  reduce_block_ = pool.take(layout_.slice() * 4);
  reduced_ = tensor_over(reduce_block_, layout_.slice(), at::kFloat, shard_.device());
  reduce_ = comm.start_reduce_scatter(buffer_of(grad_full_), buffer_of(reduced_), comm::ReduceOp::sum);
  reducing_ = true;
}

void Group::finish_reduce() {
  if (!reducing_) return;
  reduce_.wait();
  const at::NoGradGuard no_grad;
  grad_shard_.add_(reduced_);
  reduced_ = grad_full_ = at::Tensor();
  reduce_block_.reset();
  grad_block_.reset();
  reducing_ = false;
}

}  // namespace tessera::shard
