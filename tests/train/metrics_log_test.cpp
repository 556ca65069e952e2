#include "tessera/train/metrics_log.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::train {
namespace {

using testing_support::TempDir;

StepMetrics step(std::int64_t n, double loss) {
  StepMetrics m;
  m.step = n;
  m.loss = loss;
  m.lr = {{"all", 0.1}};
  return m;
}

TEST(MetricsLog, LinesCarryTheContractsKeys) {
  const auto line = nlohmann::json::parse(to_json_line(step(3, 1.5)));
  for (const char* key : {"step", "loss", "ce_loss", "mask_bce_loss", "mask_dice_loss", "mask_loss", "lr", "grad_norm",
                          "step_s", "data_wait_s", "save_stall_s", "tokens", "padding", "samples", "bytes_gathered",
                          "bytes_reduced", "peak_bytes"}) {
    EXPECT_TRUE(line.contains(key)) << key;
  }
  EXPECT_EQ(line["lr"]["all"], 0.1);
}

TEST(MetricsLog, ALossThatIsNotFiniteStaysValidJson) {
  EXPECT_EQ(nlohmann::json::parse(to_json_line(step(1, std::nan(""))))["loss"], "nan");
}

TEST(MetricsLog, GoingOnDropsWhatCameAfterTheCheckpointAndAHalfLine) {
  TempDir dir;
  const auto path = dir / "metrics.jsonl";
  {
    MetricsLog log(path, 0);
    for (int i = 1; i <= 5; ++i) log.add(step(i, i));
    log.add_validation(5, 0.5, 0.4, 7);
  }
  testing_support::write_file(path, testing_support::read_file(path) + R"({"step": 6, "lo)");
  {
    MetricsLog log(path, 3);
    log.add(step(4, 40));
  }
  const auto series = read_series(path, "loss");
  ASSERT_EQ(series.size(), 4U);
  EXPECT_EQ(series[2].second, 3);
  EXPECT_EQ(series[3].second, 40);
  EXPECT_TRUE(read_series(path, "val_giou").empty());
}

TEST(MetricsLog, ABrokenLineIsNamed) {
  TempDir dir;
  testing_support::write_file(dir / "m.jsonl", "{\"step\":1}\nnot json\n");
  try {
    read_series(dir / "m.jsonl", "loss");
    FAIL();
  } catch (const RequestError& e) {
    EXPECT_NE(std::string(e.what()).find("line 2"), std::string::npos);
  }
}

}  // namespace
}  // namespace tessera::train
