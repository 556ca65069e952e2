#include "tessera/models/presets.hpp"

#include <gtest/gtest.h>

#include "tessera/adapt/lora.hpp"
#include "tessera/adapt/trainable.hpp"
#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

struct Counts {
  std::int64_t total, trainable;
};

/// With LoRA of rank 8 on q_proj and v_proj, LISA's default recipe.
Counts count(const char* name) {
  nn::ModelLayout layout;
  const LisaModel model(layout, lisa_preset(name));
  adapt::attach_lora(layout, {});
  adapt::mark_trainable(layout, adapt::TrainScope::lisa);
  return {layout.total_elements(), layout.trainable_elements()};
}

TEST(Presets, Lisa13bHasTheReferencesCounts) {
  const Counts counts = count("lisa-13b");
  EXPECT_EQ(counts.total, 13'999'497'520);
  EXPECT_EQ(counts.trainable, 365'853'156);
}

TEST(Presets, Lisa7bHasTheReferencesCounts) {
  const Counts counts = count("lisa-7b");
  EXPECT_EQ(counts.total, 7'708'933'424);
  EXPECT_EQ(counts.trainable, 288'251'364);
}

TEST(Presets, EveryNameBuilds) {
  for (const std::string& name : preset_names()) {
    nn::ModelLayout layout;
    const LisaModel model(layout, lisa_preset(name));
    EXPECT_GT(layout.total_elements(), 7'000'000'000) << name;
  }
}

TEST(Presets, LlavaHasThePublishedSizes) {
  const auto total = [](const char* name) {
    nn::ModelLayout layout;
    const LlavaModel model(layout, llava_preset(name));
    return layout.total_elements();
  };
  // The language model, CLIP ViT-L/14-336 and the projector: of Vicuna 7B and 13B, of Qwen1.5-4B (3.95 billion).
  EXPECT_EQ(total("llava-1.5-7b"), 6'738'415'616 + 303'507'456 + 20'979'712);
  EXPECT_EQ(total("llava-1.5-13b"), 13'015'864'320 + 303'507'456 + 31'467'520);
  EXPECT_EQ(total("qwen1.5-4b-llava"), 3'950'369'280 + 303'507'456 + 9'180'160);
  // Qwen2's published totals, FastViTHD with its unused head, and the projector.
  const auto projector = [](std::int64_t width) { return 3072 * width + width * width + 2 * width; };
  EXPECT_EQ(total("fastvlm-0.5b"), 494'032'768 + 125'073'504 + projector(896));
  EXPECT_EQ(total("fastvlm-1.5b"), 1'543'714'304 + 125'073'504 + projector(1536));
  EXPECT_EQ(total("fastvlm-7b"), 7'615'616'512 + 125'073'504 + projector(3584));
  EXPECT_THROW(llava_preset("llava-1.5-70b"), RequestError);
}

TEST(Presets, AnUnknownNameIsAnErrorThatNamesTheNearest) {
  try {
    lisa_preset("lisa-13c");
    FAIL() << "no error";
  } catch (const RequestError& error) {
    EXPECT_NE(std::string(error.what()).find("'lisa-13b'"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace tessera::models
