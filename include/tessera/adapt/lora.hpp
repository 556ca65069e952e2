#pragma once
/// LoRA on chosen linear layers, embeddings and convolutions of a layout, DoRA and AdaLoRA on linear layers, with
/// PEFT's names, configuration and initialisations.
///   LoRA: y = W x + b + scaling * (B(A(dropout(x))) + c), c the adapter's own bias, where there is one
///   DoRA: W + scaling * B A, every row scaled to the length that the magnitude vector m gives it; the length it had is
///         a constant to the gradient. With dropout the part that is added to W x + b sees the dropped-out x.
///   AdaLoRA: y = W x + b + scaling * B(E A(dropout(x))), E diagonal (adalora.hpp).
/// Shapes: r rank of a layer, in and out its sizes.
/// Source: huggingface/peft tuners/lora; arXiv:2106.09685 (LoRA); arXiv:2312.03732 (rsLoRA); arXiv:2402.09353 (DoRA);
/// which layers by default: dvlab-research/LISA train_ds.py.
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/adapt/adalora.hpp"
#include "tessera/adapt/targets.hpp"
#include "tessera/core/json.hpp"
#include "tessera/nn/layers.hpp"
#include "tessera/nn/param.hpp"

namespace tessera::adapt {

/// How A and B begin (PEFT's init_lora_weights).
enum class LoraInit : std::uint8_t {
  kaiming,   ///< true: A uniform with bound 1/sqrt(in), B zero
  gaussian,  ///< "gaussian": A normal with deviation 1/r, B zero
  both,      ///< false: A as for true, B uniform with bound 1/sqrt(r), so that the adapter acts from the start
             ///< (AdaLoRA: all three normal with deviation 1, where the others have E zero and 0.02 for A and B)
  pissa,     ///< "pissa", "pissa_niter_N": the largest singular values of the base weight, which loses them
             ///< (base_start.hpp)
  olora,     ///< "olora": the first columns and rows of its QR decomposition, likewise
};

/// PEFT's `bias`: the base's own biases that train beside the adapter, and that its file holds. Loading an adapter
/// looks at the file alone.
enum class BaseBias : std::uint8_t { none, all, lora_only };

struct LoraConfig : Targets {
  std::int64_t rank = 8;
  double alpha = 16;
  double dropout = 0.05;
  bool rslora = false;  ///< scaling alpha/sqrt(rank) instead of alpha/rank
  bool dora = false;
  bool bias = false;  ///< PEFT's lora_bias: B adds a bias of its own to linear layers and convolutions that have one
  BaseBias base_bias = BaseBias::none;
  LoraInit init = LoraInit::kaiming;
  std::int64_t pissa_iterations = -1;    ///< of pissa's randomised decomposition; below 0: the exact one
  std::optional<AdaLoraConfig> adalora;  ///< its init_r is the rank then, for every layer
  /// Other ranks and alphas for some layers (targets.hpp: pattern_matches); the first key that matches counts.
  std::vector<std::pair<std::string, std::int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;

  struct Layer {
    std::int64_t rank = 0;
    double alpha = 0;
  };
  /// Settled already, by the layer's full name (an adapter that was read); beats the patterns.
  std::map<std::string, Layer> layers;

  Layer layer(const std::string& name) const;
  double scaling(const Layer& layer) const;
  double scaling() const { return scaling({rank, alpha}); }
  bool starts_in_base() const noexcept { return init == LoraInit::pissa || init == LoraInit::olora; }
};

/// One adapted layer.
struct LoraLayer {
  std::shared_ptr<nn::LayerState> target;
  /// [r, in], [out, r], "<layer>.lora_A.default.weight", …; AdaLoRA's names have no ".weight". Of a convolution
  /// [r, in, k, k] and [out, r, 1, 1]; of an embedding of V rows [r, V], "<layer>.lora_embedding_A.default".
  nn::Param a, b;
  nn::Param e;          ///< [r, 1], "<layer>.lora_E.default"; null: no AdaLoRA
  nn::Param magnitude;  ///< [out], "<layer>.lora_magnitude_vector.default.weight"; null: no DoRA
  nn::Param bias;       ///< [out], "<layer>.lora_B.default.bias", zero at the start; null: no lora_bias
  double scaling = 0;
};

struct Lora {
  LoraConfig config;
  nn::UnitId unit = -1;  ///< the fused unit "adapters" that holds every A, B and magnitude
  std::vector<LoraLayer> layers;
  std::vector<nn::Param> saved;    ///< base weights in its file: modules_to_save, and biases that train
  std::vector<std::string> empty;  ///< layers of an AdaLoRA that was read which have no triplet left, nor parameters
};
/// Full names of the adapted layers, the empty ones last.
std::vector<std::string> layer_names(const Lora& lora);

/// Appends the unit "adapters" to the layout, puts an adapter on every matching layer, marks its weights trainable and
/// the layers' units adapted. Call it after the model is built. A magnitude's own initial value is one: set it to
/// row_norms of the layer's weight, or load it. Throws RequestError: what find_targets refuses, a rank below 1 or above
/// a target's smaller side, dropout outside [0,1), a pattern that matches no target, a layer that has an adapter
/// already, a bias for a layer that has none of its own.
Lora attach_lora(nn::ModelLayout& layout, const LoraConfig& config);

/// Full names of the layers the configuration would adapt, in layout order.
std::vector<std::string> lora_targets(const nn::ModelLayout& layout, const LoraConfig& config);

/// AdaLoRA's regulariser: the mean over every A and B of orthogonality, a scalar with their graph. The weights are
/// bound.
at::Tensor orthogonality(const Lora& lora);

/// What PEFT's file holds of an adapter's parameter: all of it, or, once AdaLoRA has a rank_pattern, the triplets that
/// are left.
std::vector<std::int64_t> saved_shape(const Lora& lora, const nn::ParamState& param);
at::Tensor saved_part(const Lora& lora, const nn::ParamState& param, const at::Tensor& value);

/// What one layer adds to its weight: scaling * B A, as it is added to the weight's rows (of a convolution flattened).
/// AdaLoRA's E is multiplied into A, an embedding's are transposed and change places. magnitude undefined: no DoRA.
struct LoraTensors {
  at::Tensor a;          ///< [r, in]
  at::Tensor b;          ///< [out, r]
  at::Tensor magnitude;  ///< [out]
  double scaling = 0;
  at::Tensor bias{};  ///< [out]; undefined: no lora_bias
};

/// Those of a layer whose parameters are bound.
LoraTensors bound_tensors(const LoraLayer& layer);

/// rows [begin, begin+count) of the merged weight in W's dtype and shape, computed in fp32. weight: these rows of W.
at::Tensor merged_rows(const at::Tensor& weight, const LoraTensors& lora, std::int64_t begin);

/// The layer's own bias with the adapter's: b + scaling * c, in b's type, computed in fp32.
at::Tensor merged_bias(const at::Tensor& bias, const LoraTensors& lora);

/// The length of every row of W + scaling * B A, fp32 [out], computed in fp32 by blocks of rows, so that the sum never
/// exists as a whole. No graph.
at::Tensor row_norms(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scaling);

}  // namespace tessera::adapt
