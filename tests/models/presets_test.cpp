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
