#pragma once
// Group: one flat buffer of a unit (its frozen or its trained parameters), cut into slices; gathers, releases, reduces.
#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>

#include <optional>
#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/shard/buffer_pool.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/shard/group_layout.hpp"

namespace tessera::shard {

at::ScalarType scalar_type(ComputeType type) noexcept;
comm::DType comm_type(at::ScalarType type);
comm::Buffer buffer_of(const at::Tensor& flat);

class Group {
 public:
  Group(std::vector<nn::Param> params, bool trained, at::ScalarType compute, c10::Device device, int rank, int world);
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  bool trained() const noexcept { return trained_; }
  const GroupLayout& layout() const noexcept { return layout_; }
  at::Tensor& shard() noexcept { return shard_; }  ///< frozen: compute type; trained: fp32 master
  const at::Tensor& shard() const noexcept { return shard_; }
  at::Tensor& grad_shard() noexcept { return grad_shard_; }  ///< fp32; trained only

  // --- weights ---
  /// The slice itself is the full buffer: one rank, and no cast between master and compute type.
  bool whole() const noexcept { return whole_; }
  void start_gather(comm::Communicator& comm, BufferPool& pool);
  void finish_gather();  ///< waits and attaches the memory to the views
  void release();        ///< detaches the memory
  bool gathered() const noexcept { return state_ == State::gathered; }
  bool released() const noexcept { return state_ == State::released; }
  void bind_params();  ///< hands the views to the ParamStates
  void unbind_params();
  const std::vector<at::Tensor>& views() const noexcept { return views_; }

  // --- gradients of a trained group ---
  void open_grads(BufferPool& pool);  ///< zeroed full gradient buffer, bound as .grad of the views
  bool grads_open() const noexcept { return grads_open_; }
  /// Closes the buffer and starts its reduction into a scratch slice; finish_reduce adds that to grad_shard.
  void start_reduce(comm::Communicator& comm, BufferPool& pool);
  bool reducing() const noexcept { return reducing_; }
  void finish_reduce();

 private:
  enum class State : std::uint8_t { released, gathering, gathered };
  void attach(const BufferPool::Block& block);

  GroupLayout layout_;
  bool trained_;
  at::ScalarType compute_;
  int rank_;
  bool whole_ = false;
  at::Tensor shard_, grad_shard_;

  c10::Storage storage_;           // the full buffer; its memory comes and goes
  std::vector<at::Tensor> views_;  // one per parameter, over storage_
  BufferPool::Block weights_;
  comm::Pending gather_;
  State state_ = State::released;

  BufferPool::Block grad_block_, reduce_block_;
  at::Tensor grad_full_, reduced_;
  comm::Pending reduce_;
  bool grads_open_ = false, reducing_ = false;
};

}  // namespace tessera::shard
