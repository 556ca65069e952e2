#pragma once
/// LoRA: y = W x + scaling * B(A(dropout(x))) on chosen linear layers of a layout, named as PEFT names it.
/// Source: huggingface/peft tuners/lora; which layers by default: dvlab-research/LISA train_ds.py.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/core/json.hpp"
#include "tessera/nn/layers.hpp"
#include "tessera/nn/param.hpp"

namespace tessera::adapt {

/// How a target is matched against a layer's full name.
enum class TargetMatch : std::uint8_t {
  substring,  ///< LISA's: the name contains the target
  suffix,     ///< PEFT's list: the name is the target or ends in "." + target
  exact,      ///< the name is the target
};

struct LoraConfig {
  std::int64_t rank = 8;
  double alpha = 16;
  double dropout = 0.05;
  bool rslora = false;  ///< scaling alpha/sqrt(rank) instead of alpha/rank
  std::vector<std::string> targets = {"q_proj", "v_proj"};
  TargetMatch match = TargetMatch::substring;
  /// A layer whose name contains one of these is never a target.
  std::vector<std::string> exclude = {"visual_model", "vision_tower", "mm_projector", "text_hidden_fcs"};
  double scaling() const;
};

/// One adapted layer. A is Kaiming-uniform (bound 1/sqrt(in)), B zero.
struct LoraLayer {
  std::shared_ptr<nn::LinearState> target;
  nn::Param a;  ///< [rank, in],  "<layer>.lora_A.default.weight"
  nn::Param b;  ///< [out, rank], "<layer>.lora_B.default.weight"
};

struct Lora {
  LoraConfig config;
  nn::UnitId unit = -1;  ///< the fused unit "adapters" that holds every A and B
  std::vector<LoraLayer> layers;
};

/// Appends the unit "adapters" to the layout, puts an adapter on every matching layer and marks A and B trainable and
/// the layers' units adapted. Call it after the model is built. Throws RequestError: rank below 1 or above a target's
/// smaller side, dropout outside [0,1), a target that matches no layer (with the nearest last name component), a layer
/// that has an adapter already.
Lora attach_lora(nn::ModelLayout& layout, const LoraConfig& config);

/// Full names of the layers the configuration would adapt, in layout order.
std::vector<std::string> lora_targets(const nn::ModelLayout& layout, const LoraConfig& config);

/// rows [begin, begin+count) of W + scaling * B A, in W's dtype, computed in fp32. weight: these rows of W.
/// a [rank,in], b [out,rank].
at::Tensor merged_rows(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scaling,
                       std::int64_t begin);

/// The name in adapter_model.safetensors: "base_model.model." + name without ".default".
std::string peft_file_name(std::string_view param_name);
/// The inverse, from any of PEFT's spellings. "" when it is no LoRA weight.
std::string param_name_of_peft(std::string_view file_name);

/// adapter_config.json for this adapter as PEFT reads it: target_modules are the full names of the layers, so that the
/// suffix rule of PEFT finds exactly these.
std::string peft_config_json(const Lora& lora, const std::string& base_model);

/// PEFT's adapter_config.json, without its targets: which layers are adapted is read from the adapter's own tensors.
/// Throws RequestError naming the key: another kind of adapter, or an option that changes the mathematics and is not
/// supported (DoRA, biases, patterns of rank or alpha, modules_to_save, fan_in_fan_out).
LoraConfig lora_config_from_json(const JsonView& json);

}  // namespace tessera::adapt
