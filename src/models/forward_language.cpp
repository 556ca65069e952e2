// Language models behind `tessera forward`.
#include "forward_language.hpp"

#include <ATen/ops/ones_like.h>

#include <nlohmann/json.hpp>

#include "tessera/adapt/tied_head.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/language_config.hpp"

namespace tessera::models {

LanguageInputs take_language_inputs(Inputs& inputs) {
  LanguageInputs text;
  text.ids = inputs.take("input_ids", 2).to(at::kLong);
  text.mask = inputs.take_optional("attention_mask", 2);
  text.labels = inputs.take_optional("labels", 2);
  text.cotangent = inputs.take_optional("cotangent", 3);
  for (const at::Tensor& other : {text.mask, text.labels}) {
    if (other.defined() && other.sizes() != text.ids.sizes())
      throw RequestError("inputs: attention_mask and labels must be shaped like input_ids");
  }
  if (text.labels.defined()) text.labels = text.labels.to(at::kLong);
  return text;
}

io::SourcePtr untied_for(const std::vector<std::filesystem::path>& adapters, LanguageConfig& config,
                         io::SourcePtr files) {
  if (!config.tied() || !adapt::parts_head(adapters)) return files;
  std::visit([](auto& family) { family.tie_word_embeddings = false; }, config.family);
  return adapt::with_own_head(files);
}

ForwardModel::Result run_language(const LanguageModel& model, const at::Tensor& embeddings,
                                  const LanguageTargets& targets, nn::UnitRunner& runner) {
  const nn::ForwardContext ctx;
  nn::Tensors hidden;
  DecodeOptions options;
  options.trace = &hidden;
  const at::Tensor x = model.decode(embeddings, targets.mask, runner, ctx, options);
  const bool scores = targets.labels.defined();
  const NextTokenTargets scored = scores ? next_token_targets(targets.labels).on(x.device()) : NextTokenTargets{};
  const nn::Tensors out = runner.run(model.head_unit(), {x}, [&model, ctx, scores, scored](const nn::Tensors& in) {
    const at::Tensor normed = model.final_norm(in.at(0));
    const at::Tensor logits = model.head(normed, ctx);
    nn::Tensors results{normed, logits};
    if (scores) {
      const at::Tensor rows = logits.reshape({-1, logits.size(2)}).index_select(0, scored.positions);
      results.push_back(cross_entropy_sum(rows, scored.targets));
    }
    return results;
  });
  hidden.push_back(out.at(0));
  ForwardModel::Result result;
  put_list(result.outputs, "hidden_states", hidden);
  result.outputs["last_hidden_state"] = out.at(0).detach();
  result.outputs["logits"] = out.at(1).detach();
  if (scores) {
    const auto count = static_cast<double>(std::max<std::int64_t>(scored.targets.numel(), 1));
    result.objective = out.at(2).div(count);
  } else if (targets.cotangent.defined()) {
    if (targets.cotangent.sizes() != out.at(1).sizes())
      throw RequestError("inputs: cotangent must be shaped like the logits");
    result.objective = out.at(1).to(at::kFloat).mul(targets.cotangent).sum();
  }
  if (result.objective.defined()) result.outputs["loss"] = result.objective.detach();
  return result;
}

namespace {

class LanguageForward final : public ForwardModel {
 public:
  LanguageForward(const io::SourcePtr& files, const LanguageConfig& config) : model_(make_language_model(config)) {
    model_->add_embedding(layout_);
    model_->add_decoder(layout_);
    set_weights(files, [](const std::string& name) { return std::optional(name); });
  }

  Result compute(const TensorMap& given, nn::UnitRunner& runner) const override {
    Inputs inputs(given);
    const LanguageInputs text = take_language_inputs(inputs);
    inputs.finish();
    LanguageTargets targets{{}, text.labels, text.cotangent};
    targets.mask = text.mask.defined() ? text.mask.to(at::kBool) : at::ones_like(text.ids, at::kBool);
    return run_language(*model_, model_->embed(text.ids, runner), targets, runner);
  }

 private:
  std::unique_ptr<LanguageModel> model_;
};

}  // namespace

std::unique_ptr<ForwardModel> open_language(const ForwardRequest& request, const nlohmann::json& config) {
  LanguageConfig language = LanguageConfig::from_json(config);
  const io::SourcePtr files = untied_for(request.adapters, language, io::open_weights(request.model));
  language.fit_to_weights(*files);
  return std::make_unique<LanguageForward>(files, language);
}

}  // namespace tessera::models
