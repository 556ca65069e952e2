// A validation as `tessera eval` runs it, on as many ranks as this program was started with.
#include "tessera/train/eval_run.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "data/toy.hpp"
#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/image/image.hpp"
#include "train/toy_lisa.hpp"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;
using testing_support::message_of;

// A rectangle from column `from` to column `to` of the 64 that the baseline's grid has, over the picture's height.
std::string columns(std::int64_t from, std::int64_t to) {
  const auto bytes = testing_support::read_file(data::toy::photograph(0));
  const auto size = image::probe(image::bytes_of(bytes), "photograph").size;
  auto first_pixel = [&](std::int64_t cell) { return (cell * size.width + 63) / 64; };
  const nlohmann::json left = first_pixel(from), right = first_pixel(to + 1) - 1, bottom = size.height - 1;
  return nlohmann::json::array(
             {{{"label", "target"}, {"points", {{left, 0}, {right, 0}, {right, bottom}, {left, bottom}}}}})
      .dump();
}

void write_rectangles(const fs::path& root, const std::string& train_shapes, const std::string& val_shapes) {
  for (const auto& [split, shapes] : {std::pair{"train", train_shapes}, std::pair{"val", val_shapes}}) {
    std::vector<data::toy::ReasonSegItem> items;
    for (int i = 0; i < 3; ++i) items.push_back({split + std::to_string(i), 0, {"the part"}, false, shapes});
    data::toy::write_reason_seg(root, split, items);
  }
  testing_support::write_file(root / "reason_seg/ReasonSeg/explanatory/train.json", "[]");
}

class EvalRunTest : public testing::Test {
 protected:
  EvalRequest request() {
    EvalRequest r;
    r.model = job.config();
    r.shards = job.folders().shards.string();
    r.workers = 1;
    return r;
  }
  EvalResult evaluate_on_cpu(const EvalRequest& r) {
    return run_evaluation(r, job.fabric(), c10::Device(c10::DeviceType::CPU), Log());
  }
  IouSum baseline(const std::string& name, const std::string& train_shapes, const std::string& val_shapes) {
    const auto shards =
        job.prepare(name, [&](const fs::path& root) { write_rectangles(root, train_shapes, val_shapes); });
    return mean_mask_baseline(data::Shards::open(shards.string(), "train", {}),
                              data::Shards::open(shards.string(), "val", {}), job.comm());
  }
  toy::Job job;
};

TEST_F(EvalRunTest, TheReportHasTheFiguresOfAllShortAndLongQuestions) {
  auto r = request();
  const auto plain = nlohmann::json::parse(to_json(evaluate_on_cpu(r)));
  EXPECT_FALSE(plain.contains("baseline"));
  r.baseline_shards = r.shards;
  const auto json = nlohmann::json::parse(to_json(evaluate_on_cpu(r)));
  for (const auto& figures : {json, json.at("short"), json.at("long"), json.at("baseline")}) {
    for (const char* key : {"giou", "ciou"}) {
      EXPECT_GE(figures.at(key).get<double>(), 0.0) << key;
      EXPECT_LE(figures.at(key).get<double>(), 1.0) << key;
    }
  }
  EXPECT_GE(json.at("masks").get<int>(), 3);
  EXPECT_EQ(json.at("masks").get<int>(),
            json.at("short").at("masks").get<int>() + json.at("long").at("masks").get<int>());
  EXPECT_EQ(json.at("long").at("masks"), 1);
  EXPECT_EQ(json.at("baseline").at("masks"), json.at("masks"));
  EXPECT_EQ(json.at("giou"), plain.at("giou"));
}

TEST_F(EvalRunTest, TheFirstItemsAloneCanBeAskedFor) {
  auto r = request();
  const auto all = evaluate_on_cpu(r).model.all.masks();
  r.max_items = 1;
  const auto first = evaluate_on_cpu(r).model.all.masks();
  EXPECT_GE(first, 1);
  EXPECT_LT(first, all);
}

TEST_F(EvalRunTest, ASplitThatTheShardsDoNotHoldIsRefusedOnEveryRank) {
  auto r = request();
  r.split = "test";
  const auto text = message_of<RequestError>([&] { evaluate_on_cpu(r); });
  EXPECT_NE(text.find("test"), std::string::npos) << text;
}

TEST_F(EvalRunTest, TheMeanMaskScoresOneWhereAllMasksAreTheSame) {
  const auto score = baseline("same", columns(8, 39), columns(8, 39));
  EXPECT_EQ(score.masks(), 3);
  EXPECT_NEAR(score.giou(), 1.0, 1e-5);
  EXPECT_NEAR(score.ciou(), 1.0, 1e-9);
}

TEST_F(EvalRunTest, TheMeanMaskScoresTheOverlapWhereMasksDiffer) {
  EXPECT_EQ(baseline("apart", columns(0, 15), columns(32, 63)).giou(), 0.0);
  const auto half = baseline("half", columns(0, 31), columns(0, 63));  // 32 of 64 columns
  EXPECT_NEAR(half.giou(), 0.5, 0.01);
}

}  // namespace
}  // namespace tessera::train
