#include "tessera/core/progress.hpp"

#include <gtest/gtest.h>

namespace tessera {
namespace {

/// Settings whose clock and output the test holds.
struct Stage {
  double time = 0;
  std::string out;

  ProgressSettings settings(ProgressStyle style, std::int64_t start = 0) {
    ProgressSettings s;
    s.style = style;
    s.start = start;
    s.unit = "steps";
    s.line_interval_s = 10;
    s.bar_interval_s = 1;
    s.write = [this](std::string_view text) { out += text; };
    s.now = [this] { return time; };
    return s;
  }
};

TEST(Progress, WritesPlainLinesNowAndThenAndAtTheEnd) {
  Stage stage;
  {
    Progress progress("train", 100, stage.settings(ProgressStyle::lines));
    for (std::int64_t step = 1; step <= 100; ++step) {
      stage.time += 0.25;
      progress.update(step, "loss 1.5");
    }
  }
  EXPECT_EQ(stage.out,
            "train   1 % 1/100 steps, 4.0 steps/s, 0:00 passed, 0:25 left, loss 1.5\n"
            "train  41 % 41/100 steps, 4.0 steps/s, 0:10 passed, 0:15 left, loss 1.5\n"
            "train  81 % 81/100 steps, 4.0 steps/s, 0:20 passed, 0:05 left, loss 1.5\n"
            "train 100 % 100/100 steps, 4.0 steps/s, 0:25 passed, loss 1.5\n");
}

TEST(Progress, RedrawsABarInPlaceAndEndsItsLine) {
  Stage stage;
  {
    Progress progress("eval", 4, stage.settings(ProgressStyle::bar));
    stage.time = 4;
    progress.update(1);
    EXPECT_EQ(stage.out,
              "\reval [======                  ]  25 % 1/4 steps, 4.00 s/steps, 0:04 passed, 0:12 left\x1b[K");
    stage.out.clear();
    stage.time = 4.5;
    progress.update(2);
    EXPECT_EQ(stage.out, "") << "drawn less than a second ago";
    progress.clear();
    EXPECT_EQ(stage.out, "\r\x1b[K");
    stage.out.clear();
    progress.update(2);
    EXPECT_EQ(stage.out.find('\n'), std::string::npos);
    EXPECT_NE(stage.out.find(" 50 % 2/4"), std::string::npos);
    stage.out.clear();
  }
  EXPECT_EQ(stage.out, "\n");
}

TEST(Progress, IsSilentOnOtherRanksButKnowsItsRate) {
  EXPECT_EQ(progress_style(1), ProgressStyle::silent);
  EXPECT_EQ(progress_style(0, true), ProgressStyle::silent);
  EXPECT_NE(progress_style(0), ProgressStyle::silent);
  Stage stage;
  {
    Progress progress("x", 10, stage.settings(ProgressStyle::silent));
    stage.time = 2;
    progress.update(6);
    EXPECT_DOUBLE_EQ(progress.rate(), 3.0);
  }
  EXPECT_EQ(stage.out, "");
}

TEST(Progress, CountsNothingDoneBeforeAResume) {
  Stage stage;
  Progress progress("train", 1000, stage.settings(ProgressStyle::lines, 900));
  stage.time = 10;
  progress.update(910);
  EXPECT_DOUBLE_EQ(progress.rate(), 1.0);
  EXPECT_NE(stage.out.find("91 % 910/1000"), std::string::npos);
  EXPECT_NE(stage.out.find("1:30 left"), std::string::npos);
}

TEST(Progress, LetsTheRateFollowAChange) {
  Stage stage;
  Progress progress("x", 0, stage.settings(ProgressStyle::lines));
  std::int64_t done = 0;
  for (int i = 0; i < 100; ++i, stage.time += 1) progress.update(done += 10);
  EXPECT_NEAR(progress.rate(), 10, 0.5);
  for (int i = 0; i < 100; ++i, stage.time += 1) progress.update(done += 2);
  EXPECT_NEAR(progress.rate(), 2, 0.1);
  EXPECT_EQ(stage.out.find('%'), std::string::npos) << "the total is not known";
  EXPECT_EQ(stage.out.find("left"), std::string::npos);
}

}  // namespace
}  // namespace tessera
