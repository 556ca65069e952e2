#pragma once
/// One model run once on recorded inputs: what `tessera forward` does. Keys and shapes of inputs and outputs per model
/// are in the recorded-run contract (README: "Does it give what my Python gives?"). It runs over any UnitRunner: the
/// ZeRO-3 engine, or LocalRunner.
///
///   const auto model = ForwardModel::open(request);      // shapes alone, trainable marks set
///   Engine engine(model->layout(), fabric, …); engine.load(model->weights(), …);
///   auto result = model->run(inputs, engine);            // then backward from result.objective
///   model->put_gradient(result.outputs, param, grad);    // for each weight whose gradient was asked for
///   put_gradient_norm(result.outputs);
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tessera/adapt/peft_folder.hpp"
#include "tessera/adapt/prefix.hpp"
#include "tessera/io/sources.hpp"
#include "tessera/io/tensor_file.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::models {

using TensorMap = io::TensorMap;

struct ForwardRequest {
  std::filesystem::path model;
  std::vector<std::filesystem::path> adapters;  ///< PEFT folders: one of LoRA or its kin, a prefix, or both
  bool merge = false;             ///< merge the adapters into the weights first, instead of running them beside
  std::string vision_tower;       ///< LISA: overrides mm_vision_tower
  std::string vision_pretrained;  ///< LISA: SAM's weights
  std::string hub_dir;
  std::int64_t select_layer = -2;  ///< CLIP: what `selected.*` is
  /// Which gradients are written: "" none, "all", "trainable" (what the recipe trains: LISA's parts, else the adapters,
  /// else everything), or a regular expression searched in the names of the model's files.
  std::string grads;
};

class ForwardModel {
 public:
  struct Result {
    TensorMap outputs;     ///< detached
    at::Tensor objective;  ///< the scalar to differentiate; undefined when the inputs give none
  };

  /// Reads config.json, builds the layout and marks what needs gradients. Throws RequestError: a model_type that is not
  /// supported (with those that are), a config that is not whole, a pattern that matches nothing.
  static std::unique_ptr<ForwardModel> open(const ForwardRequest& request);
  virtual ~ForwardModel();

  nn::ModelLayout& layout() { return layout_; }
  /// Under the layout's names.
  const io::TensorSource& weights() const { return *weights_; }
  /// The name a weight has in the files it came from; `grad.` + this names its gradient.
  std::string file_name(const nn::ParamState& param) const;
  /// Adds `grad.<file_name>`, copied to host memory.
  void put_gradient(TensorMap& outputs, const nn::ParamState& param, const at::Tensor& gradient) const;

  /// Throws RequestError for a missing or unknown input and for shapes that do not fit, before any unit runs. With an
  /// AdaLoRA there is `orth_reg`, its regulariser, and where the inputs have no cotangent, objective and `loss` have it
  /// in, times orth_reg_weight, as PEFT's loss does.
  Result run(const TensorMap& inputs, nn::UnitRunner& runner) const;
  /// The adapter that is run beside the weights; null: none.
  adapt::Lora* lora() { return lora_ ? &*lora_ : nullptr; }
  const adapt::Prefix* prefix() const { return prefix_ ? &*prefix_ : nullptr; }

 protected:
  ForwardModel();
  /// rename: our name of a tensor of the files, nothing to leave it out.
  void set_weights(const io::SourcePtr& files, adapt::Rename rename);

  nn::ModelLayout layout_;

 private:
  virtual Result compute(const TensorMap& inputs, nn::UnitRunner& runner) const = 0;
  void attach_adapters(const ForwardRequest& request);
  void attach_lora(const adapt::PeftFolder& adapter, const std::filesystem::path& folder);
  void attach_prefix(const std::filesystem::path& folder);
  void mark(const ForwardRequest& request);
  virtual bool trained_by_recipe(const nn::ParamState& param) const;

  io::SourcePtr weights_;
  adapt::Rename rename_;
  std::map<std::string, std::string> file_names_;  ///< by our name
  std::set<std::string> trained_whole_;            ///< the adapters' modules_to_save
  std::optional<adapt::Lora> lora_;
  std::optional<adapt::Prefix> prefix_;
};

/// `grad_norm_total`: the root of the sum of squares of all `grad.*` that are there.
void put_gradient_norm(TensorMap& outputs);

/// What --grads needs of a result. Throws RequestError when its objective is undefined.
void require_objective(const ForwardModel::Result& result);

/// All in this process: opens, loads, runs, differentiates; `grad.<name>` of every weight asked for is zero where
/// nothing reached it.
TensorMap run_forward(const ForwardRequest& request, const TensorMap& inputs);

}  // namespace tessera::models
