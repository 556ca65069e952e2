#include "tessera/train/workload.hpp"

#include <gtest/gtest.h>

#include "tessera/adapt/lora.hpp"
#include "tessera/adapt/trainable.hpp"
#include "tessera/models/presets.hpp"

namespace tessera::train {
namespace {

models::LlamaConfig small_llama() {
  models::LlamaConfig c;
  c.vocab_size = 32000;
  c.hidden_size = 1024;
  c.intermediate_size = 2752;
  c.layers = 2;
  c.heads = c.kv_heads = 16;
  c.head_dim = c.rope.dim = 64;
  return c;
}

BatchShape one_row() {
  BatchShape s;
  s.rows = 1;
  s.length = 512;
  return s;
}

struct Built {
  nn::ModelLayout layout;
  models::LlamaConfig config = small_llama();
  explicit Built(bool lora) {
    models::Llama llama(config);
    llama.add_embedding(layout);
    llama.add_decoder(layout);
    if (lora) {
      adapt::attach_lora(layout, adapt::LoraConfig{});
      adapt::mark_trainable(layout, std::vector<std::string>{});
    } else {
      adapt::mark_trainable(layout, adapt::TrainScope::full);
    }
  }
  std::size_t unit(const std::string& name) const {
    for (std::size_t u = 0; u < layout.units().size(); ++u) {
      if (layout.units()[u].name == name) return u;
    }
    throw std::runtime_error("no unit " + name);
  }
  shard::UnitWork work(const std::string& name, const BatchShape& shape = one_row()) const {
    return language_workload(layout, {config}, shape, 4).units.at(unit(name));
  }
};

TEST(Workload, CountsTheProductsOfADecoderLayer) {
  const Built model(true);
  const auto w = model.work("model.layers.1");
  const double weights = 4.0 * 1024 * 1024 + 3.0 * 1024 * 2752;
  const double attention = 4.0 * 512 * 512 * 1024;
  EXPECT_DOUBLE_EQ(w.forward_flop, 2 * 512 * weights + attention);
  EXPECT_DOUBLE_EQ(w.backward_flop, 2 * 512 * weights + 2.5 * attention);  // frozen: no weights' gradients
  const auto full = Built(false).work("model.layers.1");
  EXPECT_DOUBLE_EQ(full.backward_flop, 4 * 512 * weights + 2.5 * attention);
}

TEST(Workload, ALayerKeepsItsInputOrManyTimesThat) {
  const Built lora(true), full(false);
  const auto few = lora.work("model.layers.0");
  EXPECT_EQ(few.inputs, 512 * 1024 * 4);
  EXPECT_GT(few.graph, 8 * few.inputs);
  EXPECT_GT(full.work("model.layers.0").graph, few.graph);
  auto longer = one_row();
  longer.rows = 3;
  EXPECT_EQ(lora.work("model.layers.0", longer).graph, 3 * few.graph);
  EXPECT_EQ(lora.work("model.embed_tokens").graph, 512 * 8);  // the ids alone
}

TEST(Workload, TheHeadHoldsNoLogitsUnlessItTrains) {
  EXPECT_LT(Built(true).work("lm_head").graph, std::int64_t{512} * 32000 * 4);
  EXPECT_GT(Built(false).work("lm_head").graph, std::int64_t{512} * 32000 * 4);
  auto few = one_row();
  few.scored = 10;
  EXPECT_LT(Built(true).work("lm_head", few).forward_flop, Built(true).work("lm_head").forward_flop / 50);
}

TEST(Workload, LlavaHasATowerAndNoMasks) {
  nn::ModelLayout layout;
  const auto config = models::llava_preset(models::llava_preset_names().front());
  const models::LlavaModel model(layout, config);
  const auto work = llava_workload(layout, config, BatchShape{}, 2);
  for (std::size_t u = 0; u < work.units.size(); ++u) {
    const auto& unit = layout.units()[u];
    if (unit.idle || unit.fused) continue;
    EXPECT_GT(work.units[u].forward_extra, 0) << unit.name;
  }
}

TEST(Workload, FastVitsUnitsHaveTheirOwnSizes) {
  nn::ModelLayout layout;
  auto config = models::llava_preset(models::llava_preset_names().front());
  config.tower.fastvit = models::FastVitConfig::hd();
  const models::LlavaModel model(layout, config);
  BatchShape shape;
  shape.images = 1;
  const auto work = llava_workload(layout, config, shape, 2);
  double flop = 0;
  for (std::size_t u = 0; u < work.units.size(); ++u) {
    const auto& unit = layout.units()[u];
    if (unit.idle || unit.name.find("vision_tower") == std::string::npos) continue;
    EXPECT_GT(work.units[u].forward_extra, 0) << unit.name;
    flop += work.units[u].forward_flop;
  }
  // Twice the published weights of each stage (160320, 3693312, 28929024, 28498944, 56810496) at each of its 256²,
  // 128², 64², 32², 16² pixels are 0.47e12; what stands between the stages adds a little.
  EXPECT_GT(flop, 0.47e12);
  EXPECT_LT(flop, 0.55e12);
}

TEST(Workload, EveryUnitOfLisaThatRunsHasWork) {
  nn::ModelLayout layout;
  const auto config = models::lisa_preset("lisa-7b");
  const models::LisaModel model(layout, config);
  const auto work = lisa_workload(layout, config, BatchShape{}, 2);
  ASSERT_EQ(work.units.size(), layout.units().size());
  double flop = 0;
  for (std::size_t u = 0; u < work.units.size(); ++u) {
    const auto& unit = layout.units()[u];
    if (unit.idle || unit.fused) continue;
    EXPECT_GT(work.units[u].forward_extra, 0) << unit.name;
    flop += work.units[u].forward_flop;
  }
  // 2 x 6.6e9 weights x 3072 positions of text, and SAM's ViT-H at 2.7 TFLOP a picture (its paper's count).
  EXPECT_GT(flop, 2 * 6.5e9 * 3072 + 2 * 2.5e12);
  EXPECT_LT(flop, 2 * 7.5e9 * 3072 + 2 * 7e12);
  EXPECT_GT(work.batches, 2 * 3 * 1024 * 1024 * 4);
  EXPECT_EQ(2 * work.batch, work.batches + BatchShape{}.rows * BatchShape{}.length * 17 +
                                4 * BatchShape{}.masks * BatchShape{}.mask_pixels);  // pictures in two bytes
}

}  // namespace
}  // namespace tessera::train
