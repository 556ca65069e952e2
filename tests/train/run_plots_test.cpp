#include "tessera/train/run_plots.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/image/image.hpp"
#include "tessera/train/metrics_log.hpp"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;
using testing_support::message_of;
using testing_support::read_file;
using testing_support::TempDir;

void write_steps(const fs::path& run, int steps) {
  MetricsLog log(run / "metrics.jsonl", 0);
  for (int n = 1; n <= steps; ++n) {
    StepMetrics m;
    m.step = n;
    m.loss = 3.0 / n;
    m.ce_loss = 2.0 / n;
    m.mask_bce_loss = 0.75 / n;
    m.mask_dice_loss = 0.25 / n;
    log.add(m);
  }
}

// Decodes, and is not one colour.
void expect_picture(const fs::path& path) {
  const auto bytes = read_file(path);
  const auto picture = image::decode(image::bytes_of(bytes), path.string());
  EXPECT_EQ(picture.width, 960);
  EXPECT_EQ(picture.height, 540);
  EXPECT_FALSE(std::all_of(picture.rgb.begin(), picture.rgb.end(), [&](auto v) { return v == picture.rgb.front(); }));
}

TEST(RunPlots, StepsGiveAPictureOfTheLossesAndNoneOfValidations) {
  TempDir run;
  write_steps(run.path(), 5);
  plot_run(run.path());
  expect_picture(run / "losses.png");
  EXPECT_FALSE(fs::exists(run / "validation.png"));
}

TEST(RunPlots, ValidationsGiveAPictureOfTheirOwn) {
  TempDir run;
  write_steps(run.path(), 2);
  {
    MetricsLog log(run / "metrics.jsonl", 2);
    log.add_validation(1, 0.25, 0.3, 7);
    log.add_validation(2, 0.5, 0.4, 7);
  }
  plot_run(run.path());
  expect_picture(run / "losses.png");
  expect_picture(run / "validation.png");
}

TEST(RunPlots, ThePictureFollowsTheFigures) {
  TempDir few, many;
  write_steps(few.path(), 3);
  write_steps(many.path(), 30);
  plot_run(few.path());
  plot_run(many.path());
  EXPECT_NE(read_file(few / "losses.png"), read_file(many / "losses.png"));
}

TEST(RunPlots, ABrokenLineIsAnErrorThatNamesTheFile) {
  TempDir run;
  testing_support::write_file(run / "metrics.jsonl", "{\"step\": 1, \"loss\": 2.0}\n{\"step\": 2, \"lo\n");
  const auto text = message_of<RequestError>([&] { plot_run(run.path()); });
  EXPECT_NE(text.find((run / "metrics.jsonl").string()), std::string::npos) << text;
  EXPECT_NE(text.find('2'), std::string::npos) << text;
  EXPECT_FALSE(fs::exists(run / "losses.png"));
}

TEST(RunPlots, AFolderWithoutMetricsIsAnErrorThatNamesTheFile) {
  TempDir run;
  try {
    plot_run(run.path());
    FAIL() << "nothing was thrown";
  } catch (const std::exception& error) {
    EXPECT_NE(std::string(error.what()).find("metrics.jsonl"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace tessera::train
