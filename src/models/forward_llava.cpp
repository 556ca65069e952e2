// LLaVA behind `tessera forward`.
#include <ATen/ops/zeros.h>

#include "forward_language.hpp"
#include "tessera/core/error.hpp"
#include "tessera/models/llava.hpp"
#include "tessera/models/llava_folder.hpp"

namespace tessera::models {
namespace {

class LlavaForward final : public ForwardModel {
 public:
  LlavaForward(const LlavaFolder& folder, const io::SourcePtr& files) : model_(layout_, folder.llava) {
    set_weights(files, [config = folder.llava](const std::string& name) { return llava_layout_name(name, config); });
  }

  Result compute(const TensorMap& given, nn::UnitRunner& runner) const override {
    Inputs inputs(given);
    const LanguageInputs text = take_language_inputs(inputs);
    const at::Tensor original = inputs.take_optional("images", 4);
    const at::Tensor expanded = inputs.take_optional("pixel_values", 4);
    inputs.finish();
    if (original.defined() && expanded.defined())
      throw RequestError("inputs: 'images' (one -200 each) and 'pixel_values' (a placeholder id per feature) at once");

    LlavaBatch batch;
    batch.input_ids = text.ids;
    if (text.mask.defined()) batch.attention_mask = text.mask.to(at::kBool);
    batch.labels = text.labels;
    batch.expanded = !original.defined();
    batch.images = original.defined() ? original : expanded;
    // Text alone stays as it is, in the original form as well.
    if (!batch.images.defined()) {
      const std::int64_t side = model_.config().tower.image_size();
      batch.images = at::zeros({0, 3, side, side}, text.ids.options().dtype(at::kFloat));
    }
    const LlavaSequence sequence = model_.embed(batch, runner, {});
    Result result =
        run_language(model_.language(), sequence.embeddings, {sequence.mask, sequence.labels, text.cotangent}, runner);
    result.outputs["image_features"] = sequence.image_features.detach();
    result.outputs["expanded_attention_mask"] =
        sequence.mask.to(text.mask.defined() ? text.mask.scalar_type() : at::kLong);
    if (sequence.labels.defined()) result.outputs["expanded_labels"] = sequence.labels;
    return result;
  }

 private:
  LlavaModel model_;
};

}  // namespace

std::unique_ptr<ForwardModel> open_llava(const ForwardRequest& request) {
  LlavaFolderRequest folder;
  folder.folder = request.model;
  folder.vision_tower = request.vision_tower;
  folder.hub_dir = request.hub_dir;
  LlavaFolder found = read_llava_folder(folder);
  const io::SourcePtr files = open_llava_weights(found);
  found.llava.language.fit_to_weights(*files);
  return std::make_unique<LlavaForward>(found, files);
}

}  // namespace tessera::models
