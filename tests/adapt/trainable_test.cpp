#include "tessera/adapt/trainable.hpp"

#include <gtest/gtest.h>

#include "tessera/core/error.hpp"

namespace tessera::adapt {
namespace {

struct SmallLisa {
  nn::ModelLayout layout;
  nn::Param layer, head, embedding, decoder, text, buffer, adapter;
  SmallLisa() {
    const nn::UnitId unit = layout.add_unit("u");
    const nn::UnitId fused = layout.add_unit("adapters", true);
    layer = layout.add(unit, "model.layers.0.mlp.up_proj.weight", {2}, {});
    head = layout.add(unit, "lm_head.weight", {3}, {});
    embedding = layout.add(unit, "model.embed_tokens.weight", {5}, {});
    decoder = layout.add(unit, "model.visual_model.mask_decoder.iou_token.weight", {7}, {});
    text = layout.add(unit, "model.text_hidden_fcs.0.0.weight", {11}, {});
    buffer = layout.add(unit, "model.visual_model.mask_decoder.table", {13}, {}, true);
    adapter = layout.add(fused, "model.layers.0.self_attn.q_proj.lora_A.default.weight", {17}, {});
  }
};

TEST(Trainable, LisaTrainsItsHeadsItsTablesAndAdapters) {
  SmallLisa m;
  mark_trainable(m.layout, TrainScope::lisa);
  EXPECT_FALSE(m.layer->trainable);
  EXPECT_EQ(m.layout.trainable_elements(), 3 + 5 + 7 + 11 + 17);
}

TEST(Trainable, FullTrainsEverythingButBuffers) {
  SmallLisa m;
  mark_trainable(m.layout, TrainScope::full);
  EXPECT_TRUE(m.layer->trainable);
  EXPECT_FALSE(m.buffer->trainable);
}

TEST(Trainable, ASubstringThatMatchesNothingIsAnError) {
  SmallLisa m;
  EXPECT_THROW(mark_trainable(m.layout, {"lm_head", "no_such_part"}), RequestError);
}

TEST(Trainable, ScopesGoByName) {
  EXPECT_EQ(train_scope_from_name("full"), TrainScope::full);
  EXPECT_THROW(train_scope_from_name("half"), RequestError);
}

}  // namespace
}  // namespace tessera::adapt
