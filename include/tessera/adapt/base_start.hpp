#pragma once
/// Adapters that begin in the base weight (PiSSA, OLoRA): A and B take a low-rank part of W, and W loses it, so that
/// W - scaling * B A + scaling * B A is what it was. The part is computed when a weight is first read, one matrix at a
/// time, or before, by one rank for all: the result does not depend on their number.
/// Shapes: r rank of a layer, in and out its sizes.
/// Source: arXiv:2404.02948 (PiSSA), arXiv:2406.01775 (OLoRA); huggingface/peft tuners/lora/layer.py (pissa_init,
/// olora_init), model.py (subtract_mutated_init); Halko et al., arXiv:0909.4061, algorithm 4.4 (the randomised
/// decomposition).
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tessera/adapt/lora.hpp"
#include "tessera/comm/communicator.hpp"
#include "tessera/io/sources.hpp"

namespace tessera::adapt {

/// A [r, in] and B [out, r], fp32.
struct LowRank {
  at::Tensor a, b;
};
/// scaling * B A is the best approximation of `weight` [out, in] of rank r, both factors with the roots of its singular
/// values. iterations below 0: by the whole decomposition; else by that many power iterations from a matrix that
/// depends on (seed, in, r) alone.
LowRank pissa(const at::Tensor& weight, std::int64_t rank, double scaling, std::int64_t iterations, std::uint64_t seed);
/// B: the first r columns of Q, A: the first r rows of R.
LowRank olora(const at::Tensor& weight, std::int64_t rank);

/// The layers that begin in the base, by full name, with rank and alpha of each.
struct BaseStart {
  LoraConfig config;
  std::vector<std::string> layers;
  std::uint64_t seed = 0;
};
BaseStart base_start(const Lora& lora, std::uint64_t seed);

class StartedSource : public io::TensorSource {
 public:
  /// Computes every layer's A and B now, each on one rank, in turn, and tells them to all; what a rank then keeps is
  /// the adapter's size. Collective over host memory. A rank's error is thrown on all.
  virtual void share(comm::Communicator& control) = 0;
};

/// `base` with every such weight reduced, in its own type, and where `matrices`, the layers' "….lora_A.default.weight"
/// and B beside them. Throws RequestError: a layer that base lacks, or whose weight is no matrix of F32, F16 or BF16.
std::shared_ptr<StartedSource> started_source(io::SourcePtr base, BaseStart start, bool matrices);

/// As PEFT converts such an adapter for the base as it was: A and A's start one below the other, B and the negative of
/// B's start side by side, twice the rank, the scaling as before. `start` is a started_source with matrices.
at::Tensor converted(const nn::ParamState& param, const at::Tensor& value, const io::TensorSource& start);
std::vector<std::int64_t> converted_shape(const nn::ParamState& param);
/// The adapter that the converted matrices are, for peft_config_json.
Lora converted(Lora lora);

}  // namespace tessera::adapt
