#include "tessera/models/language_model.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "models/golden.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/language_config.hpp"
#include "tessera/models/local_weights.hpp"

namespace tessera::models {
namespace {

at::Tensor ids(const std::vector<std::int64_t>& values) {
  return at::tensor(values, at::kLong);
}

TEST(NextTokenTargets, ShiftWithinEachRowAndSkipWhatIsIgnored) {
  const auto scored = next_token_targets(ids({-100, 5, 6, 7, -100, 8}).view({2, 3}));
  EXPECT_TRUE(scored.positions.equal(ids({0, 1, 4})));
  EXPECT_TRUE(scored.targets.equal(ids({5, 6, 8})));
}

TEST(CrossEntropySum, SumsAndIsZeroOverNothing) {
  const at::Tensor logits = at::randn({3, 5});
  const at::Tensor targets = ids({0, 4, 2});
  const at::Tensor wanted = logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).sum().neg();
  EXPECT_NEAR(cross_entropy_sum(logits, targets).item<double>(), wanted.item<double>(), 1e-5);
  EXPECT_EQ(cross_entropy_sum(logits.narrow(0, 0, 0), targets.narrow(0, 0, 0)).item<double>(), 0.0);
}

TEST(RequireIds, NamesTheIdThatIsOutside) {
  EXPECT_NO_THROW(require_ids(ids({0, 4}), 5));
  EXPECT_NO_THROW(require_ids(ids({}), 5));
  try {
    require_ids(ids({0, -200, 4}), 5);
    ADD_FAILURE() << "accepted";
  } catch (const RequestError& error) {
    EXPECT_NE(std::string(error.what()).find("-200"), std::string::npos);
  }
}

/// A golden's model with its weights.
struct Loaded {
  nn::ModelLayout layout;
  std::unique_ptr<LanguageModel> model;
  nn::LocalRunner runner;
  explicit Loaded(const std::filesystem::path& path) {
    const io::ModelFolder folder(path);
    model = make_language_model(LanguageConfig::from_json(folder.config().raw()));
    model->add_embedding(layout);
    model->add_decoder(layout);
    load_local(layout, *folder.weights());
  }
  at::Tensor logits(const at::Tensor& ids, const at::Tensor& mask, const DecodeOptions& options) {
    const at::Tensor hidden = model->decode(model->embed(ids, runner), mask, runner, {}, options);
    return runner
        .run(model->head_unit(), {hidden},
             [this](const nn::Tensors& in) { return nn::Tensors{model->head(model->final_norm(in.at(0)), {})}; })
        .at(0);
  }
};

class CachedGolden : public testing::TestWithParam<const char*> {};

TEST_P(CachedGolden, PiecesWithACacheGiveThePublicPackagesLogits) {
  const at::AutoGradMode off(false);
  const auto folder = testing_support::golden_model(GetParam());
  const auto inputs = io::read_tensors(folder / "inputs.safetensors");
  const auto wanted = io::read_tensors(folder / "cached.safetensors");
  Loaded loaded(folder);
  nn::KeyValueCache cache(loaded.model->layers());
  const at::Tensor& ids = inputs.at("input_ids");
  const at::Tensor mask = inputs.at("attention_mask").to(at::kBool);
  const at::Tensor& pieces = wanted.at("pieces");
  std::vector<at::Tensor> logits;
  std::int64_t begin = 0;
  for (std::int64_t i = 0; i < pieces.numel(); ++i) {
    const auto piece = pieces[i].item<std::int64_t>();
    DecodeOptions options;
    options.cache = &cache;
    options.positions = wanted.at("position_ids").narrow(1, begin, piece);
    logits.push_back(loaded.logits(ids.narrow(1, begin, piece), mask.narrow(1, 0, begin + piece), options));
    begin += piece;
  }
  EXPECT_EQ(cache.length(), ids.size(1));
  EXPECT_TRUE(testing_support::close(at::cat(logits, 1), wanted.at("logits")));
}

INSTANTIATE_TEST_SUITE_P(Models, CachedGolden,
                         testing::Values("llama_dynamic_rope", "qwen2_grouped_left_padded",
                                         "mpt_five_heads_left_padded"),
                         [](const auto& instance) { return std::string(instance.param); });

TEST(LanguageModel, ACacheWithoutGivenPositionsContinuesAfterThePast) {
  const at::AutoGradMode off(false);
  const auto folder = testing_support::golden_model("llama_right_padded");
  Loaded loaded(folder);
  const at::Tensor ids = io::read_tensors(folder / "inputs.safetensors").at("input_ids");
  const at::Tensor all = at::ones_like(ids, at::kBool);
  const at::Tensor whole = loaded.logits(ids, all, {});
  nn::KeyValueCache cache(loaded.model->layers());
  DecodeOptions options;
  options.cache = &cache;
  const at::Tensor first = loaded.logits(ids.narrow(1, 0, 4), all.narrow(1, 0, 4), options);
  const at::Tensor rest = loaded.logits(ids.narrow(1, 4, 3), all, options);
  EXPECT_TRUE(testing_support::close(at::cat({first, rest}, 1), whole));
}

}  // namespace
}  // namespace tessera::models
