#include "tessera/models/llava.hpp"

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "nn/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

constexpr std::int64_t kTokens = 4;

LlavaConfig small() {
  LlamaConfig llama;
  llama.vocab_size = 20;
  llama.hidden_size = 12;
  llama.intermediate_size = 16;
  llama.layers = 1;
  llama.heads = 2;
  llama.kv_heads = 2;
  llama.head_dim = 6;
  llama.rope.dim = 6;
  LlavaConfig config;
  config.language.family = llama;
  config.tower.clip.hidden_size = 8;
  config.tower.clip.intermediate_size = 12;
  config.tower.clip.layers = 2;
  config.tower.clip.heads = 2;
  config.tower.clip.image_size = 10;
  config.tower.clip.patch_size = 5;
  config.image_token = 19;
  return config;
}

/// Notes which units run.
class NotingRunner final : public nn::UnitRunner {
 public:
  nn::Tensors run(nn::UnitId unit, const nn::Tensors& inputs, const nn::UnitFn& fn,
                  const nn::UnitFn& /*again*/) override {
    order.push_back(unit);
    return fn(inputs);
  }
  std::vector<nn::UnitId> order;
};

struct Fixture {
  nn::ModelLayout layout;
  LlavaModel model;
  NotingRunner runner;
  explicit Fixture(const LlavaConfig& config = small()) : model(layout, config) {
    for (const auto& p : layout.params()) p->trainable = !p->buffer;
    nn::materialize(layout, 1);
  }
  std::string error_of(const LlavaBatch& batch) {
    try {
      model.embed(batch, runner, {});
    } catch (const RequestError& error) {
      EXPECT_TRUE(runner.order.empty()) << "a unit ran before the batch was refused";
      return error.what();
    }
    return "";
  }
};

LlavaBatch batch_of(const std::vector<std::vector<std::int64_t>>& rows, std::int64_t images) {
  LlavaBatch batch;
  const auto length = static_cast<std::int64_t>(rows.front().size());
  batch.input_ids = at::zeros({static_cast<std::int64_t>(rows.size()), length}, at::kLong);
  for (std::size_t b = 0; b < rows.size(); ++b) {
    batch.input_ids[static_cast<std::int64_t>(b)].copy_(at::tensor(rows[b], at::kLong));
  }
  batch.labels = batch.input_ids.clone();
  batch.labels.masked_fill_(batch.input_ids.lt(0), -100);
  batch.images = at::randn({images, 3, 10, 10});
  return batch;
}

TEST(Llava, RowsGrowByTheirImagesAndAreTakenInOrder) {
  Fixture f;
  LlavaBatch batch = batch_of({{3, -200, 4, -200}, {5, 6, 7, 8}, {9, -200, 1, 2}}, 4);
  const LlavaSequence out = f.model.embed(batch, f.runner, {});
  ASSERT_EQ(out.embeddings.sizes(), (at::IntArrayRef{3, 2 + 2 * kTokens, 12}));
  const auto image = [&](std::int64_t i) { return out.image_features[i]; };
  using testing_support::distance;
  EXPECT_EQ(distance(out.embeddings[0].narrow(0, 1, kTokens), image(0)), 0.0);
  EXPECT_EQ(distance(out.embeddings[0].narrow(0, 6, kTokens), image(1)), 0.0);
  EXPECT_EQ(distance(out.embeddings[2].narrow(0, 1, kTokens), image(3)), 0.0) << "the third is row 1's dummy";
  EXPECT_EQ(out.embeddings[1].narrow(0, 4, 6).abs().sum().item<double>(), 0.0);
  EXPECT_EQ(out.mask[1].sum().item<std::int64_t>(), 4);
  EXPECT_EQ(out.labels[0][1].item<std::int64_t>(), -100);
  EXPECT_EQ(out.labels[0][5].item<std::int64_t>(), 4);
}

TEST(Llava, RowsAreCutToTheTokenizersLengthAndPaddedOnItsSide) {
  LlavaConfig config = small();
  config.max_length = 6;
  config.pad_left = true;
  Fixture f(config);
  const LlavaSequence out = f.model.embed(batch_of({{3, -200, 4, 5}, {5, 6, 7, 8}}, 2), f.runner, {});
  ASSERT_EQ(out.embeddings.size(1), 6);
  EXPECT_EQ(out.labels[0][5].item<std::int64_t>(), 4) << "5 was cut";
  EXPECT_TRUE(out.mask[1].equal(at::tensor({0, 0, 1, 1, 1, 1}, at::kLong).to(at::kBool)));
}

LlavaConfig in_tiles() {
  LlavaConfig config = small();
  config.tiles = TileConfig{PatchMerge::spatial_unpad, {{10, 20}}, 10, kTokens};
  config.image_newline = true;
  return config;
}

TEST(Llava, APictureInTilesTakesThePositionsOfItsOwn) {
  Fixture f(in_tiles());
  LlavaBatch batch = batch_of({{3, -200, 4, 5}, {5, 6, 7, 8}, {9, -200, 1, 2}}, 3 + 1 + 1);
  batch.pictures = {{3, {10, 20}}, {1, {}}, {1, {}}};
  const LlavaSequence out = f.model.embed(batch, f.runner, {});
  const std::int64_t first = kTokens + 2 * 5, last = kTokens + 1;
  ASSERT_EQ(out.embeddings.sizes(), (at::IntArrayRef{3, 3 + first, 12}));
  ASSERT_EQ(out.image_features.sizes(), (at::IntArrayRef{first + 2 * last, 12}));
  using testing_support::distance;
  EXPECT_EQ(distance(out.embeddings[0].narrow(0, 1, first), out.image_features.narrow(0, 0, first)), 0.0);
  EXPECT_EQ(distance(out.embeddings[2].narrow(0, 1, last), out.image_features.narrow(0, first + last, last)), 0.0);
  EXPECT_EQ(out.labels[2][1 + last].item<std::int64_t>(), 1);
  EXPECT_EQ(out.mask.sum().item<std::int64_t>(), 3 + first + 4 + 3 + last);
  batch.max_length = 10;
  EXPECT_EQ(f.model.embed(batch, f.runner, {}).embeddings.size(1), 10);
}

TEST(Llava, WithTilesTheUnitsThatRunDoNotDependOnTheBatchEither) {
  Fixture f(in_tiles());
  LlavaBatch tiles = batch_of({{3, -200, 4, 5}}, 3);
  tiles.pictures = {{3, {10, 20}}};
  f.model.forward(tiles, f.runner, {});
  const auto order = f.runner.order;
  f.runner.order.clear();
  LlavaBatch text = batch_of({{3, 5}}, 1);
  text.pictures = {{1, {}}};
  f.model.forward(text, f.runner, {}).loss.backward();
  EXPECT_EQ(f.runner.order, order);
  for (const auto& p : f.layout.params()) {
    if (p->name == "model.image_newline") {
      EXPECT_EQ(p->value().grad().abs().sum().item<double>(), 0.0) << "in the graph, without a place";
    }
  }
}

TEST(Llava, ImageNewlineIsIdleWithoutTiles) {
  LlavaConfig config = small();
  config.image_newline = true;
  Fixture f(config);
  const auto newline = f.layout.find("model.image_newline");
  ASSERT_TRUE(newline);
  EXPECT_TRUE(f.layout.unit(newline->unit).idle);
  f.model.forward(batch_of({{3, -200, 4, 6}}, 1), f.runner, {});
  EXPECT_EQ(std::count(f.runner.order.begin(), f.runner.order.end(), newline->unit), 0);
}

TEST(Llava, TheUnitsThatRunDoNotDependOnTheBatch) {
  Fixture f;
  f.model.forward(batch_of({{3, -200, 4, -200}}, 2), f.runner, {});
  const auto order = f.runner.order;
  f.runner.order.clear();
  LlavaBatch text = batch_of({{3, 5}}, 0);
  text.expanded = true;
  f.model.forward(text, f.runner, {});
  EXPECT_EQ(f.runner.order, order);
}

TEST(Llava, LogitsOnlyWhereLabelsAreGiveTheSameLoss) {
  Fixture f;
  const LlavaBatch batch = batch_of({{3, -200, 4, 6}, {5, 6, 7, 8}}, 2);
  LlavaForwardOptions options;
  options.full_logits = true;
  const LlavaOutputs full = f.model.forward(batch, f.runner, {}, options);
  const LlavaOutputs sparse = f.model.forward(batch, f.runner, {});
  EXPECT_EQ(sparse.target_tokens, 2 + 3);
  EXPECT_NEAR(full.loss.item<double>(), sparse.loss.item<double>(), 1e-5);
  EXPECT_FALSE(sparse.logits.defined());
  options.target_tokens = 10;
  EXPECT_NEAR(f.model.forward(batch, f.runner, {}, options).loss.item<double>(), sparse.loss.item<double>() / 2, 1e-5);
}

TEST(Llava, ABatchWithoutTargetsHasLossZeroAndAGraph) {
  Fixture f;
  LlavaBatch batch = batch_of({{3, -200, 4, 6}}, 1);
  batch.labels.fill_(-100);
  const at::Tensor loss = f.model.forward(batch, f.runner, {}).loss;
  EXPECT_EQ(loss.item<double>(), 0.0);
  loss.backward();
}

TEST(Llava, RefusesBatchesThatContradictThemselves) {
  EXPECT_NE(Fixture().error_of(batch_of({{3, -200, 4}}, 2)).find("take 1 images"), std::string::npos);
  EXPECT_NE(Fixture().error_of(batch_of({{3, 4, 5}}, 0)).find("take 1 images"), std::string::npos);
  EXPECT_NE(Fixture().error_of(batch_of({{3, 20, 5}}, 1)).find("vocabulary"), std::string::npos);
  LlavaBatch expanded = batch_of({{3, 19, 19, 19, 4}}, 1);
  expanded.expanded = true;
  EXPECT_NE(Fixture().error_of(expanded).find("3 image placeholders"), std::string::npos);
  LlavaBatch size = batch_of({{3, -200}}, 1);
  size.images = at::zeros({1, 3, 8, 8});
  EXPECT_NE(Fixture().error_of(size).find("10"), std::string::npos);
  LlavaBatch tiles = batch_of({{3, -200}}, 3);
  tiles.pictures = {{3, {10, 20}}};
  EXPECT_NE(Fixture().error_of(tiles).find("not anyres"), std::string::npos);
  tiles.images = at::zeros({4, 3, 10, 10});
  EXPECT_NE(Fixture(in_tiles()).error_of(tiles).find("3 tiles in all, there are 4"), std::string::npos);
}

TEST(LlavaConfig, ReadsBothForms) {
  auto json = nlohmann::json::parse(R"({"model_type": "llava", "vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "mm_hidden_size": 1024, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2, "mm_vision_tower": "openai/clip-vit-large-patch14-336"})");
  const auto tower = nlohmann::json::parse(R"({"hidden_size": 1024, "intermediate_size": 4096, "image_size": 336,
    "patch_size": 14, "num_hidden_layers": 24, "num_attention_heads": 16})");
  const LlavaConfig original = LlavaConfig::from_original(json, tower);
  EXPECT_EQ(original.tower.tokens(), 576);
  EXPECT_EQ(original.image_token, -1);
  // What llava-hf/llava-1.5-7b-hf writes of its language model.
  const LlavaConfig converted = LlavaConfig::from_transformers(
      {{"model_type", "llava"},
       {"image_token_index", 32000},
       {"text_config",
        {{"model_type", "llama"}, {"max_position_embeddings", 4096}, {"rms_norm_eps", 1e-5}, {"vocab_size", 32064}}},
       {"vision_config", tower}});
  EXPECT_EQ(converted.language.vocab_size(), 32064);
  EXPECT_EQ(converted.image_token, 32000);
  nn::ModelLayout one, two;
  const LlavaModel first(one, original);
  const LlavaModel second(two, converted);
  EXPECT_EQ(two.total_elements() - one.total_elements(), 2 * 64 * 4096) << "rows that the conversion adds";
  json["mm_hidden_size"] = 768;
  EXPECT_THROW(LlavaConfig::from_original(json, tower), RequestError);
  EXPECT_THROW(LlavaConfig::from_transformers({{"vision_feature_select_strategy", "all"}}), RequestError);
}

}  // namespace
}  // namespace tessera::models
