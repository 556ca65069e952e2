#include "tessera/models/lisa.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "nn/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

constexpr std::int64_t kSeg = 17;

LisaConfig small() {
  LisaConfig config;
  LlamaConfig llama;
  llama.vocab_size = 20;
  llama.hidden_size = 12;
  llama.intermediate_size = 16;
  llama.layers = 1;
  llama.heads = 2;
  llama.kv_heads = 2;
  llama.head_dim = 6;
  llama.rope.dim = 6;
  config.language.family = llama;
  config.tower.clip.hidden_size = 8;
  config.tower.clip.intermediate_size = 12;
  config.tower.clip.layers = 2;
  config.tower.clip.heads = 2;
  config.tower.clip.image_size = 10;
  config.tower.clip.patch_size = 5;
  config.sam.image_size = 16;
  config.sam.patch_size = 8;
  config.sam.embed_dim = 8;
  config.sam.depth = 1;
  config.sam.num_heads = 2;
  config.sam.global_attn_indexes = {0};
  config.sam.window_size = 2;
  config.sam.prompt_embed_dim = 8;
  config.sam.decoder_depth = 1;
  config.sam.decoder_mlp_dim = 8;
  config.sam.decoder_num_heads = 2;
  config.sam.iou_head_hidden_dim = 8;
  config.out_dim = 8;
  config.seg_token_id = kSeg;
  return config;
}

/// One image per row of ids; `segs` [SEG] at the end of each row.
LisaBatch batch_of(const std::vector<int>& segs, std::int64_t length = 7) {
  const auto rows = static_cast<std::int64_t>(segs.size());
  LisaBatch batch;
  batch.images = at::randn({rows, 3, 16, 16});
  batch.images_clip = at::randn({rows, 3, 10, 10});
  batch.input_ids = at::full({rows, length}, 3, at::kLong);
  batch.labels = at::full({rows, length}, -100, at::kLong);
  batch.attention_mask = at::ones({rows, length}, at::kBool);
  batch.offset = {0};
  for (std::int64_t c = 0; c < rows; ++c) {
    batch.input_ids[c][1] = -200;
    for (int k = 0; k < segs[static_cast<std::size_t>(c)]; ++k) batch.input_ids[c][length - 1 - k] = kSeg;
    batch.labels[c].narrow(0, 3, length - 3).copy_(batch.input_ids[c].narrow(0, 3, length - 3));
    batch.offset.push_back(c + 1);
    batch.resize.push_back({16, 11});
    batch.original.push_back({13, 9});
    batch.masks.push_back(at::randn({segs[static_cast<std::size_t>(c)], 13, 9}).gt(0).to(at::kFloat));
    batch.sample_keys.push_back(static_cast<std::uint64_t>(c + 1));
  }
  return batch;
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
  LisaModel model{layout, small()};
  NotingRunner runner;
  Fixture() {
    for (const auto& p : layout.params()) p->trainable = !p->buffer;
    nn::materialize(layout, 1);
  }
  LisaOutputs run(const LisaBatch& batch, const LisaForwardOptions& options = {}) {
    runner.order.clear();
    return model.forward(batch, runner, {}, options);
  }
};

std::string error_of(const LisaBatch& batch) {
  Fixture f;
  try {
    f.run(batch);
  } catch (const RequestError& error) {
    EXPECT_TRUE(f.runner.order.empty()) << "a unit ran before the batch was refused";
    return error.what();
  }
  return "";
}

TEST(Lisa, TheUnitsThatRunDoNotDependOnTheBatch) {
  Fixture f;
  f.run(batch_of({1, 2}));
  const auto order = f.runner.order;
  f.run(batch_of({0}));
  EXPECT_EQ(f.runner.order, order);
  f.run(batch_of({}));
  EXPECT_EQ(f.runner.order, order);
}

TEST(Lisa, AnEmptyBatchHasLossZeroAndAGraph) {
  Fixture f;
  const LisaOutputs out = f.run(batch_of({}));
  EXPECT_EQ(out.loss.item<double>(), 0.0);
  EXPECT_TRUE(out.pred_masks.empty());
  out.loss.backward();
}

TEST(Lisa, ItsTowerMayBeAFastViT) {
  LisaConfig config = small();
  config.tower.fastvit = FastVitConfig::from_json(nlohmann::json::parse(
      R"({"layers": [1, 1, 1], "embed_dims": [3, 6, 18], "mlp_ratios": [2, 2, 1], "pos_embs": [null, null, null],
          "token_mixers": ["repmixer", "repmixer", "repmixer"], "image_size": 40})"));
  nn::ModelLayout layout;
  const LisaModel model(layout, config);
  nn::materialize(layout, 1);
  LisaBatch batch = batch_of({1, 0, 2});
  batch.images_clip = at::rand({3, 3, 40, 40});
  NotingRunner runner;
  LisaForwardOptions options;
  options.trace = true;
  const LisaOutputs out = model.forward(batch, runner, {}, options);
  EXPECT_EQ(out.clip_features.sizes(), (at::IntArrayRef{3, 9, 36}));
  EXPECT_EQ(out.final_hidden.size(1), 7 + 9 - 1);
  EXPECT_EQ(out.pred_embeddings.size(0), 3);
  const auto order = runner.order;
  batch = batch_of({});
  batch.images_clip = at::rand({0, 3, 40, 40});
  runner.order.clear();
  model.forward(batch, runner, {});
  EXPECT_EQ(runner.order, order);
}

TEST(Lisa, LossesOverPartsWithTheGlobalCountsAddUpToTheWhole) {
  Fixture f;
  const LisaBatch whole = batch_of({1, 2});
  LisaForwardOptions options;
  options.scale = LossScale::from(count_targets(whole));
  double sum = 0;
  for (std::int64_t c = 0; c < 2; ++c) {
    LisaBatch part = whole;
    const auto at = static_cast<std::size_t>(c);
    for (at::Tensor* t : {&part.images, &part.images_clip, &part.input_ids, &part.labels, &part.attention_mask}) {
      *t = t->narrow(0, c, 1);
    }
    part.offset = {0, 1};
    part.resize = {whole.resize[at]};
    part.original = {whole.original[at]};
    part.masks = {whole.masks[at]};
    part.sample_keys = {whole.sample_keys[at]};
    sum += f.run(part, options).loss.item<double>();
  }
  EXPECT_NEAR(sum, f.run(whole).loss.item<double>(), 1e-4);
}

TEST(Lisa, LogitsOnlyWhereLabelsAreGiveTheSameLoss) {
  Fixture f;
  const LisaBatch batch = batch_of({1, 0});
  LisaForwardOptions options;
  options.full_logits = true;
  options.trace = true;
  const LisaOutputs full = f.run(batch, options);
  EXPECT_NEAR(f.run(batch).loss.item<double>(), full.loss.item<double>(), 1e-5);
  EXPECT_EQ(full.logits.sizes(), (at::IntArrayRef{2, 7 + 4 - 1, 20}));
}

TEST(Lisa, MasksComeAtTheOriginalSizeWithoutLabels) {
  Fixture f;
  LisaBatch batch = batch_of({2});
  batch.masks.clear();
  LisaForwardOptions options;
  options.losses = false;
  const LisaOutputs out = f.run(batch, options);
  ASSERT_EQ(out.pred_masks.size(), 1U);
  EXPECT_EQ(out.pred_masks[0].sizes(), (at::IntArrayRef{2, 13, 9}));
  EXPECT_FALSE(out.loss.defined());
}

TEST(Lisa, CountsTargetsAndMasks) {
  const LisaCounts counts = count_targets(batch_of({1, 2}));
  EXPECT_EQ(counts.target_tokens, 8);
  EXPECT_EQ(counts.masks, 3);
}

TEST(Lisa, RefusesBatchesThatContradictThemselves) {
  LisaBatch batch = batch_of({1});
  batch.masks[0] = at::zeros({2, 13, 9});
  EXPECT_NE(error_of(batch).find("1 [SEG]"), std::string::npos);
  batch = batch_of({1});
  batch.input_ids[0][1] = 4;
  EXPECT_NE(error_of(batch).find("no image placeholder"), std::string::npos);
  batch = batch_of({1});
  batch.input_ids[0][2] = -200;
  EXPECT_NE(error_of(batch).find("more than one"), std::string::npos);
  batch = batch_of({1});
  batch.input_ids[0][2] = 20;
  EXPECT_NE(error_of(batch).find("vocabulary"), std::string::npos);
  batch = batch_of({1});
  batch.offset = {0, 2};
  EXPECT_NE(error_of(batch).find("offset"), std::string::npos);
  batch = batch_of({1});
  batch.resize[0] = {17, 3};
  EXPECT_NE(error_of(batch).find("17x3"), std::string::npos);
}

}  // namespace
}  // namespace tessera::models
