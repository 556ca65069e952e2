#pragma once
// Group: one flat buffer of a unit (its frozen or its trained parameters), cut into slices; gathers, releases, reduces.
#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>

#include <optional>
#include <vector>

#include "shard/copy_stream.hpp"
#include "shard/group_spec.hpp"
#include "shard/packing.hpp"
#include "tessera/comm/fabric.hpp"
#include "tessera/shard/buffer_pool.hpp"

namespace tessera::shard {

comm::DType comm_type(at::ScalarType type);
comm::Buffer buffer_of(const at::Tensor& flat);
JobShape shape_of(const comm::Fabric& fabric) noexcept;

class Group {
 public:
  Group(const GroupPart& part, const comm::Fabric& fabric, const CopyStream& copies);
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  bool trained() const noexcept { return spec_.trained; }
  const GroupSpec& spec() const noexcept { return spec_; }
  const GroupLayout& layout() const noexcept { return layout_; }
  // What this rank keeps: its slice, its node's slice, or all of it. Frozen: compute type, or bytes where it is
  // quantised; trained: fp32 master.
  at::Tensor& shard() noexcept { return shard_; }
  const at::Tensor& shard() const noexcept { return shard_; }
  at::Tensor& grad_shard() noexcept { return grad_shard_; }  // fp32; trained only

  // --- loading: every element of the full buffer is read by exactly one rank of the job ---
  at::Tensor loaded() const;  // view of what this rank reads, inside shard()
  int loaded_slice() const;   // which of the W slices that is
  std::vector<Piece> loaded_pieces() const { return layout_.pieces(loaded_slice()); }  // relative to loaded()
  Packing* packing() noexcept { return packing_ ? &*packing_ : nullptr; }              // null: not quantised
  const Packing* packing() const noexcept { return packing_ ? &*packing_ : nullptr; }
  void share_loaded(BufferPool& pool);  // collective: the rest of shard() from the ranks that read it

  // --- weights ---
  const GroupSizes& sizes() const noexcept { return sizes_; }
  bool whole() const noexcept { return whole_; }
  void start_gather(BufferPool& pool);
  void finish_gather();  // waits and attaches the memory to the views; of quantised weights, expand() does
  void release();        // detaches the memory
  // Quantised weights have values, and memory for them, between the two; without effect on others.
  void expand(BufferPool& pool);
  void collapse();
  at::Tensor gathered_bytes() const;  // of quantised weights that are gathered: all segments
  bool gathering() const noexcept { return state_ == State::gathering; }
  bool released() const noexcept { return state_ == State::released; }
  const at::Tensor& rows() const { return views_.at(0); }  // of a block of rows, while it is gathered
  void bind_params();                                      // hands the views to the ParamStates
  void unbind_params();

  // --- gradients of a trained group ---
  // Zeroed full gradient buffers, one per lane, the first bound as .grad of the views. No effect on open ones.
  void open_grads(BufferPool& pool, int lanes = 1);
  void use_lane(int lane);  // whose buffer .grad is
  bool grads_open() const noexcept { return grads_open_; }
  // Starts adding the buffer of the next lane, over all ranks, to grad_shard; closes with the last. `norms` receives a
  // tensor with the 1-norm of each parameter's gradient on this rank, not finite where a gradient is not; it stays
  // undefined where all gradients are known to be finite.
  void start_reduce(BufferPool& pool, at::Tensor* norms);
  bool reducing() const noexcept { return reducing_; }
  void finish_reduce();

  int users = 0;        // calls that need the weights now
  bool shared = false;  // units beside its own borrow it

 private:
  enum class State : std::uint8_t { released, gathering, gathered };
  void attach(void* data);
  void detach();
  void make_views();
  void drop_grads();
  at::Tensor own_slot(const at::Tensor& full) const;

  GroupSpec spec_;
  const comm::Fabric* fabric_;
  const CopyStream* copies_;
  GroupLayout layout_;
  GroupSizes sizes_;
  int part_ = 0, parts_ = 1;  // shard() is part `part_` of `parts_` equal ones
  bool whole_ = false;
  at::Tensor shard_, grad_shard_;

  c10::Storage storage_;           // the full buffer; its memory comes and goes
  std::vector<at::Tensor> views_;  // one per parameter, over storage_
  std::optional<Packing> packing_;
  BufferPool::Block expanded_;
  BufferPool::Block weights_;
  comm::Pending gather_;
  std::optional<c10::Event> copied_;  // from host memory, where nothing is gathered after it
  State state_ = State::released;

  BufferPool::Block grad_block_, wide_lane_;
  at::Tensor grad_full_;           // of all lanes, one after another
  int lanes_ = 1, next_lane_ = 0;  // next_lane_: the one reduced next
  comm::Pending reduce_;
  bool grads_open_ = false, reducing_ = false;
};

}  // namespace tessera::shard
