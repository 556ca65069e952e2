// gIoU over ranks against a loop over all items, on as many ranks as this program was started with.
#include "tessera/train/evaluate.hpp"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <set>

#include "support/support.hpp"
#include "tessera/image/image.hpp"
#include "train/toy_lisa.hpp"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;

class EvaluateTest : public testing::Test {
 protected:
  data::EvalLoader loader(int rank, int world) {
    return {model.input_spec(400), shards, rank, world, data::EvalLoader::Limits{1, 64, -1}};
  }
  // Every rank goes through all items by itself.
  IouSum by_a_plain_loop() {
    const at::NoGradGuard no_grad;
    IouSum sum;
    auto all = loader(0, 1);
    models::LisaForwardOptions options;
    options.losses = false;
    model.engine->begin_step();
    for (std::int64_t call = 0; call < all.calls(); ++call) {
      const auto item = all.next();
      nn::ForwardContext ctx;
      ctx.sample_keys = item.batch.sample_keys;
      model.engine->begin_pass(shard::Pass::free_order);
      const auto out = model.recipe->segments()->forward(item.batch, *model.engine, ctx, options);
      model.engine->end_pass();
      const auto target = item.batch.masks.at(0).contiguous();
      const auto logits = out.pred_masks.at(0).contiguous();
      for (std::int64_t k = 0; k < target.size(0); ++k) {
        std::int64_t both = 0, either = 0;
        const at::Tensor wanted = target[k], predicted = logits[k];
        for (std::int64_t i = 0; i < wanted.numel(); ++i) {
          const float t = wanted.const_data_ptr<float>()[i];
          if (t == 255.0F) continue;
          const bool here = predicted.const_data_ptr<float>()[i] > 0;
          both += here && t == 1.0F ? 1 : 0;
          either += here || t == 1.0F ? 1 : 0;
        }
        sum.add_counts(both, either);
      }
    }
    model.engine->end_step();
    return sum;
  }

  toy::Job job;
  LoadedModel model = job.load(job.config(), /*for_training=*/false);
  data::Shards shards = data::Shards::open(job.folders().shards.string(), "val", {});
};

TEST_F(EvaluateTest, TheScoreIsThatOfAPlainLoopOnAnyNumberOfRanks) {
  const auto wanted = by_a_plain_loop();
  auto mine = loader(job.rank(), job.comm().size());
  const auto got = evaluate(*model.recipe->segments(), *model.engine, mine, {}, 0);
  EXPECT_GE(got.all.masks(), 3);
  EXPECT_EQ(got.all.masks(), wanted.masks());
  EXPECT_GT(wanted.ciou(), 0.0);  // or equality would say little
  EXPECT_DOUBLE_EQ(got.all.giou(), wanted.giou());
  EXPECT_DOUBLE_EQ(got.all.ciou(), wanted.ciou());
  EXPECT_EQ(got.short_questions.masks() + got.long_questions.masks(), got.all.masks());
  EXPECT_EQ(got.long_questions.masks(), 1);
  EXPECT_GT(got.seconds, 0.0);
}

TEST_F(EvaluateTest, ASecondRunStartsAgainFromTheFirstItem) {
  auto mine = loader(job.rank(), job.comm().size());
  const auto first = evaluate(*model.recipe->segments(), *model.engine, mine, {}, 0);
  const auto second = evaluate(*model.recipe->segments(), *model.engine, mine, {}, 0);
  EXPECT_EQ(first.all.masks(), second.all.masks());
  EXPECT_EQ(first.all.giou(), second.all.giou());
}

TEST_F(EvaluateTest, OverlaysOfTheFirstItemsAreDrawnOnceEach) {
  const auto folder = job.fresh_folder("overlays");
  auto mine = loader(job.rank(), job.comm().size());
  evaluate(*model.recipe->segments(), *model.engine, mine, folder, 2);
  std::set<std::string> items;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".png") continue;
    items.insert(entry.path().filename().string().substr(0, 4));
    const auto bytes = testing_support::read_file(entry.path());
    const auto picture = image::decode(image::bytes_of(bytes), entry.path().string());
    EXPECT_GT(picture.width, 2 * picture.height) << "three pictures side by side";
    EXPECT_TRUE(fs::exists(fs::path(entry.path()).replace_extension(".txt")));
  }
  EXPECT_EQ(items, (std::set<std::string>{"0000", "0001"}));
}

TEST_F(EvaluateTest, AnOverlayThatCannotBeWrittenIsAnErrorOnEveryRank) {
  const auto blocked = job.fresh_folder("blocked") / "file";
  if (job.rank() == 0) testing_support::write_file(blocked, "no folder");
  job.comm().barrier();
  auto mine = loader(job.rank(), job.comm().size());
  EXPECT_ANY_THROW(evaluate(*model.recipe->segments(), *model.engine, mine, blocked, 2));
}

}  // namespace
}  // namespace tessera::train
