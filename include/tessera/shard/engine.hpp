#pragma once
/// Engine: ZeRO stage 3 over a ModelLayout. Parameters, gradients and optimiser states live as flat fp32 (or, for
/// frozen weights on GPUs, bf16) slices, one per rank; a unit's weights exist only around its use.
///
/// Life of a step, every call collective:
///     begin_step();
///     for each micro-batch { begin_pass(Pass::train); loss = model.forward(…, engine); backward(loss); end_pass(); }
///     reduce_held(); report = check_gradients(); optimizer.step(…); end_step();
/// or, where a gather costs more than the activations of all micro-batches, layer by layer: run_layer_major(forwards)
/// in the place of the loop.
///
/// How a weight comes and goes: each group (the frozen or the trained part of a unit) owns one storage whose memory is
/// attached while the unit is gathered and detached afterwards; the parameters are views of it, made once. A gather is
/// one collective into a pooled buffer, without copies in or out, and what autograd saved stays valid because it holds
/// the storage, never the memory.
///
/// Order: the sequence of units in a pass is recorded the first time and decides what is gathered ahead and what stays
/// gathered (config.hpp: prefetch, keep_bytes); a later pass that leaves it fails, naming the unit, since ranks that
/// disagree would hang. settle() compares the plan of all ranks before the first step, check_gradients() compares what
/// each rank has issued in every step.
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
#include "tessera/core/progress.hpp"
#include "tessera/core/trace.hpp"
#include "tessera/io/tensor_source.hpp"
#include "tessera/nn/runner.hpp"
#include "tessera/shard/config.hpp"
#include "tessera/shard/group_layout.hpp"
#include "tessera/shard/moments8.hpp"

namespace tessera::shard {

/// What a pass is for; each recorded kind has its own order of units.
enum class Pass : std::uint8_t {
  train,
  eval,
  free_order,  ///< generation and export: no recorded order, no prefetch
};

/// Bytes on this rank, by category.
struct MemoryReport {
  std::int64_t frozen = 0;         ///< frozen weights: slices, and whole ones where they are resident
  std::int64_t master = 0;         ///< fp32 slices of trained weights
  std::int64_t gradients = 0;      ///< fp32 slices of their gradients
  std::int64_t optimizer = 0;      ///< slices of the optimiser's states
  std::int64_t average = 0;        ///< fp32 slices of the average of the trained weights
  std::int64_t held = 0;           ///< full weights and gradients of fused units, kept through a step
  std::int64_t host = 0;           ///< of the above, in host memory by offloading
  std::int64_t gathered_peak = 0;  ///< most pooled memory on loan since the last reset, `held` included
  std::int64_t sharded() const noexcept { return frozen + master + gradients + optimizer + average; }
};

/// The slice of one trained group, as the optimiser, the clipping and the checkpoint see it. Tensors are fp32 [slice],
/// where nothing else is said.
struct TrainedSlice {
  const GroupLayout* layout = nullptr;
  std::vector<Piece> pieces;
  at::Tensor master, grad;
  /// The optimiser's states; undefined beyond EngineConfig::moments. With moments_8bit these are the fp32 ones of the
  /// pieces that keep them, one after another, and the others' are coded.
  at::Tensor exp_avg, exp_avg_sq;
  CodedMoment coded_avg, coded_avg_sq;
  std::vector<std::int64_t> exact_at;  ///< by piece: where its fp32 states begin; -1: they are coded
  at::Tensor average;                  ///< of the masters; undefined without EngineConfig::average
  /// AdaLoRA's moving averages; undefined but for EngineConfig::importance. Checkpoints hold what is defined.
  at::Tensor sensitivity, uncertainty;
};

/// What check_gradients found; the same on every rank.
struct GradientReport {
  double norm = 0;        ///< root of the sum of squares over all trained gradients of all ranks
  bool finite = true;     ///< false: some rank's gradient was not, or the norm is not
  int rank = -1;          ///< the lowest rank that had one …
  std::string parameter;  ///< … and its first such parameter; empty when only the sum over ranks is not finite
};

/// What to do with parameters that the weights on disk do not hold.
struct LoadPolicy {
  std::uint64_t seed = 0;
  /// True: fill by the parameter's Init. False: its absence is listed in the error.
  std::function<bool(const nn::ParamState&)> may_initialize = [](const nn::ParamState&) { return false; };
  /// True: the file may have fewer rows (a vocabulary before tokens were added); the others are filled by Init.
  std::function<bool(const nn::ParamState&)> may_extend_rows = [](const nn::ParamState&) { return false; };
  int threads = 0;  ///< that read and convert; 0: this rank's part of the node's processors, 8 at most
  ProgressStyle progress = ProgressStyle::silent;  ///< of this rank's part, when it takes more than a second
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
  /// Allocates the slices, and tells each layer of the layout whether its weight is int8 (nn/layers.hpp). `layout` (its
  /// trainable marks settled) and the communicators outlive the engine.
  Engine(const nn::ModelLayout& layout, comm::Fabric fabric, EngineConfig config);
  ~Engine() override;

  /// Each element is read by one rank of the job, straight into its slice. All missing and mis-shaped tensors are
  /// listed in one RequestError. No communication; settle() is to follow on every rank.
  LoadReport load(const io::TensorSource& source, const LoadPolicy& policy);

  /// Ends loading; collective. Completes weights that are kept whole or per node from the ranks that read them, and
  /// compares the plan (program, units, sizes, types, placement, what trains) of all ranks: a difference is a
  /// RequestError on every rank that names the ranks and the first unit.
  void settle();

  /// Gathers the fused units, which stay until end_step.
  void begin_step();
  void begin_pass(Pass pass);
  nn::Tensors run(nn::UnitId unit, const nn::Tensors& inputs, const nn::UnitFn& fn,
                  const nn::UnitFn& again = {}) override;
  /// Runs autograd from `loss` (a scalar) and closes what it left open; gradients are added to the slices.
  void backward(const at::Tensor& loss);
  void end_pass();
  /// config().layer_major micro-batches at once, unit by unit: each unit is gathered once for all of them in forward
  /// and once in backward, and its gradient is reduced once (in reproducible mode once per micro-batch, with the same
  /// bits as the passes one by one). forwards[i] runs micro-batch i and returns its loss, a scalar; whatever it needs
  /// must live until this returns. Stands for begin_pass … end_pass of each of them.
  void run_layer_major(const std::vector<std::function<at::Tensor()>>& forwards);
  /// Reduces what is left of the fused units' gradients; once, after the last micro-batch.
  void reduce_held();
  /// After the optimiser: gradients are zero again, fused units' weights are dropped.
  void end_step();

  /// Norm and soundness of the step's gradients, and the comparison of the schedules that the ranks followed in this
  /// step; one small collective. In reproducible mode the norm has the same bits for any number of ranks. Throws
  /// RunError on every rank, naming the ranks and the first difference, when the schedules differ.
  GradientReport check_gradients();
  double grad_norm() { return check_gradients().norm; }
  std::vector<TrainedSlice>& trained() noexcept;

  /// Gathers one unit, calls `fn` with its weights bound, and lets it go. For export and merging, one unit at a time.
  /// With `exact`, trained weights are the fp32 masters whatever the compute type.
  void with_gathered(nn::UnitId unit, bool exact, const std::function<void()>& fn);
  /// The quantised matrices of one unit, as bitsandbytes packs them: for nf4 and fp4 codes U8 [(n + 1) / 2, 1] and the
  /// absmax of each block F32; for int8 codes I8 [out, in] and the scale of each row F32; in host memory. Collective.
  void with_packed(
      nn::UnitId unit,
      const std::function<void(const nn::ParamState&, const at::Tensor& codes, const at::Tensor& scales)>& fn);
  /// The gradients of one unit's trained parameters, whole, as (parameter, fp32 tensor). Collective; for verification.
  void with_gradients(nn::UnitId unit, const std::function<void(const nn::ParamState&, const at::Tensor&)>& fn);

  /// Order-free 64-bit digest of the frozen parameters' names, positions and values, equal for every number of ranks.
  std::uint64_t frozen_digest() const;

  MemoryReport memory() const;
  void reset_peaks();
  /// Records when units compute, gather, reduce and wait, from now on; null stops. On a GPU these are the times at
  /// which the host issued the work and returned. The log outlives the engine or is taken off before.
  void set_trace(TraceLog* trace) noexcept;
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
