#pragma once
/// Engine: ZeRO stage 3 over a ModelLayout. Parameters, gradients and optimiser states live as flat fp32 (or, for
/// frozen weights on GPUs, bf16) slices, one per rank; a unit's weights exist only around its use.
///
/// Life of a step, every call collective:
///     begin_step();
///     for each micro-batch { begin_pass(Pass::train); loss = model.forward(…, engine); backward(loss); end_pass(); }
///     reduce_held(); norm = grad_norm(); optimizer.step(…); end_step();
///
/// How a weight comes and goes: each group (the frozen or the trained part of a unit) owns one storage whose memory is
/// attached while the unit is gathered and detached afterwards; the parameters are views of it, made once. A gather is
/// one collective into a pooled buffer, without copies in or out, and what autograd saved stays valid because it holds
/// the storage, never the memory.
///
/// Order: the sequence of units in a pass is recorded the first time and drives the prefetch of the next unit; a later
/// pass that leaves it fails, naming the unit, since ranks that disagree would hang.
///
/// Source: ZeRO, arXiv:1910.02054; activation checkpointing: arXiv:1604.06174.
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tessera/comm/fabric.hpp"
#include "tessera/io/tensor_source.hpp"
#include "tessera/nn/runner.hpp"
#include "tessera/shard/group_layout.hpp"

namespace tessera::shard {

enum class ComputeType : std::uint8_t { f32, bf16, f16 };

struct EngineConfig {
  ComputeType compute = ComputeType::f32;
  c10::Device device = c10::Device(c10::DeviceType::CPU);
  bool checkpoint_activations = true;  ///< recompute each unit in backward instead of keeping its activations
  bool prefetch = true;                ///< gather the next unit while this one computes
  bool resident_frozen = false;        ///< gather frozen weights once and keep them: W times the memory, no traffic
};

/// What a pass is for; each recorded kind has its own order of units.
enum class Pass : std::uint8_t {
  train,
  eval,
  free_order,  ///< generation and export: no recorded order, no prefetch
};

/// Bytes on this rank, by category.
struct MemoryReport {
  std::int64_t frozen = 0;         ///< slices of frozen weights
  std::int64_t master = 0;         ///< fp32 slices of trained weights
  std::int64_t gradients = 0;      ///< fp32 slices of their gradients
  std::int64_t optimizer = 0;      ///< fp32 slices of both moments
  std::int64_t resident = 0;       ///< full frozen weights kept by resident_frozen
  std::int64_t held = 0;           ///< full weights and gradients of fused units, kept through a step
  std::int64_t gathered_peak = 0;  ///< most pooled memory on loan since the last reset, `held` and `resident` included
  std::int64_t sharded() const noexcept { return frozen + master + gradients + optimizer; }
};

/// The slice of one trained group, as the optimiser, the clipping and the checkpoint see it. Tensors are fp32 [slice].
struct TrainedSlice {
  const GroupLayout* layout = nullptr;
  std::vector<Piece> pieces;
  at::Tensor master, grad, exp_avg, exp_avg_sq;
};

/// What to do with parameters that the weights on disk do not hold.
struct LoadPolicy {
  std::uint64_t seed = 0;
  /// True: fill by the parameter's Init. False: its absence is listed in the error.
  std::function<bool(const nn::ParamState&)> may_initialize = [](const nn::ParamState&) { return false; };
  /// True: the file may have fewer rows (a vocabulary before tokens were added); the others are filled by Init.
  std::function<bool(const nn::ParamState&)> may_extend_rows = [](const nn::ParamState&) { return false; };
};

struct LoadReport {
  std::int64_t tensors_read = 0;
  std::int64_t bytes_read = 0;           ///< by this rank
  std::vector<std::string> initialized;  ///< parameters filled by Init
  std::vector<std::string> extended;     ///< parameters with added rows
  std::vector<std::string> unused;       ///< tensors of the source that no parameter took
};

class Engine final : public nn::UnitRunner {
 public:
  /// Allocates the slices. `layout` (its trainable marks settled) and the communicators outlive the engine.
  Engine(const nn::ModelLayout& layout, comm::Fabric fabric, EngineConfig config);
  ~Engine() override;

  /// Each parameter's bytes are read by the ranks whose slices hold them, straight into the slices. All missing and
  /// mis-shaped tensors are listed in one RequestError. No communication, but every rank must call it.
  LoadReport load(const io::TensorSource& source, const LoadPolicy& policy);

  /// Gathers the fused units; with_gradients opens their gradient buffers too (false for evaluation).
  void begin_step(bool with_gradients = true);
  void begin_pass(Pass pass);
  nn::Tensors run(nn::UnitId unit, const nn::Tensors& inputs, const nn::UnitFn& fn) override;
  /// Runs autograd from `loss` (a scalar) and closes what it left open; gradients are added to the slices.
  void backward(const at::Tensor& loss);
  void end_pass();
  /// Reduces the fused units' gradients; once, after the last micro-batch.
  void reduce_held();
  /// After the optimiser: gradients are zero again, fused units' weights are dropped.
  void end_step();

  /// Root of the sum of squares over all trained gradients of all ranks, in fp64.
  double grad_norm() const;
  std::vector<TrainedSlice>& trained() noexcept;

  /// Gathers one unit, calls `fn` with its weights bound, and lets it go. For export and merging, one unit at a time.
  /// With `exact`, trained weights are the fp32 masters whatever the compute type.
  void with_gathered(nn::UnitId unit, bool exact, const std::function<void()>& fn);
  /// The gradients of one unit's trained parameters, whole, as (parameter, fp32 tensor). Collective; for verification.
  void with_gradients(nn::UnitId unit, const std::function<void(const nn::ParamState&, const at::Tensor&)>& fn);

  /// Order-free 64-bit digest of the frozen parameters' names, positions and values, equal for every number of ranks.
  std::uint64_t frozen_digest() const;

  MemoryReport memory() const;
  void reset_peaks();
  /// Seconds this rank waited for collectives since the last call.
  double take_comm_wait();
  const nn::ModelLayout& layout() const noexcept;
  const comm::Fabric& fabric() const noexcept;
  comm::Communicator& control() const noexcept { return *fabric().control; }
  const EngineConfig& config() const noexcept;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::shard
