#include "tessera/train/optimization_flags.hpp"

#include <gtest/gtest.h>

#include "support/limits.hpp"
#include "tessera/core/error.hpp"

namespace tessera::train {
namespace {

using testing_support::message_of;

OptimizationFlags parsed(const std::vector<std::string>& args) {
  OptimizationFlags flags;
  Options options("test", "optimisation");
  bind(options, flags);
  options.parse(args);
  return flags;
}

std::string refusal(const std::vector<std::string>& args) {
  return message_of<RequestError>([&] { validate(parsed(args)); });
}

TEST(OptimizationFlags, ByDefaultNothingIsDone) {
  const auto flags = parsed({});
  EXPECT_TRUE(flags.lr_groups.empty());
  EXPECT_EQ(flags.max_grad_value, 0);
  EXPECT_FALSE(flags.averages_for("eval") || flags.averages_for("export"));
  EXPECT_EQ(flags.early_stopping_patience, 0);
  EXPECT_NO_THROW(validate(flags));
}

TEST(OptimizationFlags, TheAverageIsUsedWhereItIsSaid) {
  const auto uses = [](const std::string& where) {
    const auto flags = parsed({"--ema_decay", "0.9", "--ema_use", where});
    return std::pair{flags.averages_for("eval"), flags.averages_for("export")};
  };
  EXPECT_EQ(uses("both"), (std::pair{true, true}));
  EXPECT_EQ(uses("eval"), (std::pair{true, false}));
  EXPECT_EQ(uses("export"), (std::pair{false, true}));
  EXPECT_EQ(uses("none"), (std::pair{false, false}));
}

TEST(OptimizationFlags, WhatIsBetterFollowsTheMetricUnlessItIsSaid) {
  EXPECT_TRUE(best_metric_of(parsed({"--metric_for_best_model", "ciou"})).greater_is_better);
  EXPECT_FALSE(best_metric_of(parsed({"--greater_is_better", "false"})).greater_is_better);
  EXPECT_FALSE(best_metric_of(parsed({"--metric_for_best_model", "eval_loss"})).greater_is_better);
  EXPECT_EQ(best_metric_of(parsed({"--metric_for_best_model", "eval_loss"})).metric, "loss");
  const auto config = best_metric_of(parsed({"--early_stopping_patience", "3", "--early_stopping_threshold", "0.1"}));
  EXPECT_EQ(config.metric, "");  // the recipe's
  EXPECT_EQ(config.patience, 3);
  EXPECT_EQ(config.threshold, 0.1);
}

TEST(OptimizationFlags, WhatContradictsItselfIsRefusedByName) {
  EXPECT_NE(refusal({"--ema_decay", "1"}).find("--ema_decay"), std::string::npos);
  EXPECT_NE(refusal({"--ema_use", "eval"}).find("--ema_decay"), std::string::npos);
  EXPECT_NE(refusal({"--early_stopping_threshold", "0.1"}).find("--early_stopping_patience"), std::string::npos);
  EXPECT_NE(refusal({"--lr_groups", "lm_head"}).find("REGEX=LR"), std::string::npos);
  EXPECT_THROW(parsed({"--metric_for_best_model", "bleu"}), RequestError);
}

}  // namespace
}  // namespace tessera::train
