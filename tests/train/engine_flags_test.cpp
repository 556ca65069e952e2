#include "tessera/train/engine_flags.hpp"

#include <ATen/Context.h>
#include <gtest/gtest.h>

#include "support/limits.hpp"
#include "tessera/core/error.hpp"
#include "tessera/shard/planner.hpp"

namespace tessera::train {
namespace {

using testing_support::message_of;

EngineFlags parse(const std::vector<std::string>& args) {
  EngineFlags flags;
  Options options("tessera train", "");
  bind(options, flags);
  options.parse(args);
  return flags;
}

nn::ModelLayout two_layers() {
  nn::ModelLayout layout;
  for (const char* name : {"model.layers.0", "model.layers.1", "lm_head"}) layout.add_unit(name);
  return layout;
}

shard::PlanChoices chosen(const std::vector<std::string>& args) {
  const auto flags = parse(args);
  validate(flags);
  return choices(flags, two_layers());
}

TEST(EngineFlags, LeaveEverythingToThePlannerUnlessSaid) {
  const auto c = chosen({});
  EXPECT_FALSE(c.frozen || c.keep_bytes || c.recompute || c.recompute_fraction || c.offload_optimizer ||
               c.offload_frozen);
  EXPECT_FALSE(parse({}).budget_bytes().has_value());
}

TEST(EngineFlags, SettlePlacementMemoryAndOffloading) {
  EXPECT_EQ(chosen({"--placement", "world"}).frozen, shard::Placement::world);
  EXPECT_EQ(chosen({"--placement", "node"}).frozen, shard::Placement::node);
  EXPECT_EQ(chosen({"--placement", "resident"}).frozen, shard::Placement::resident);
  EXPECT_EQ(chosen({"--resident_frozen"}).frozen, shard::Placement::resident);
  EXPECT_EQ(chosen({"--keep_mib", "1.5"}).keep_bytes, 3 << 19);
  EXPECT_EQ(chosen({"--offload_optimizer", "true"}).offload_optimizer, true);
  EXPECT_EQ(chosen({"--offload_frozen", "false"}).offload_frozen, false);
  EXPECT_EQ(parse({"--memory_budget", "0.5"}).budget_bytes(), std::int64_t{1} << 29);
}

TEST(EngineFlags, NameTheUnitsThatRecompute) {
  EXPECT_EQ(chosen({"--recompute", "all"}).recompute_fraction, 1.0);
  EXPECT_EQ(chosen({"--recompute", "none"}).recompute_fraction, 0.0);
  EXPECT_EQ(chosen({"--gradient_checkpointing", "false"}).recompute_fraction, 0.0);
  EXPECT_EQ(chosen({"--recompute", "0.25"}).recompute_fraction, 0.25);
  EXPECT_EQ(chosen({"--recompute", "layers.1,head"}).recompute, (std::vector<bool>{false, true, true}));
  const auto text = message_of<RequestError>([] { chosen({"--recompute", "layer.1"}); });
  EXPECT_NE(text.find("layer.1"), std::string::npos) << text;
  EXPECT_NE(text.find("model.layers.0"), std::string::npos) << text;
}

TEST(EngineFlags, ContradictionsAreRefusedByName) {
  auto refusal = [](const std::vector<std::string>& args) {
    return message_of<RequestError>([&] { validate(parse(args)); });
  };
  EXPECT_NE(refusal({"--resident_frozen", "--placement", "world"}).find("--placement"), std::string::npos);
  EXPECT_NE(refusal({"--gradient_checkpointing", "false", "--recompute", "all"}).find("--recompute"),
            std::string::npos);
  EXPECT_NE(refusal({"--recompute", "1.5"}).find("1.5"), std::string::npos);
  EXPECT_NE(refusal({"--keep_mib", "much"}).find("much"), std::string::npos);
  EXPECT_THROW(parse({"--placement", "nowhere"}), RequestError);
  for (const auto* bad : {"-1", "1.5", "some"}) {
    EXPECT_NE(refusal({"--prefetch", bad}).find("--prefetch"), std::string::npos) << bad;
  }
}

TEST(EngineFlags, ApplyToTheEngine) {
  shard::EngineConfig config;
  apply(parse({}), config);
  EXPECT_EQ(config.prefetch, 1);
  EXPECT_EQ(config.layer_major, 1);
  EXPECT_TRUE(config.reproducible);  // on a CPU
  apply(parse({"--prefetch", "3", "--layer_major", "2", "--reproducible", "false"}), config);
  EXPECT_EQ(config.prefetch, 3);
  EXPECT_EQ(config.layer_major, 2);
  EXPECT_FALSE(config.reproducible);
  config.device = c10::Device(c10::DeviceType::CUDA, 0);
  apply(parse({}), config);
  EXPECT_FALSE(at::globalContext().allowTF32CuBLAS());
  apply(parse({"--tf32", "True"}), config);
  EXPECT_TRUE(at::globalContext().allowTF32CuBLAS());
  apply(parse({"--tf32", "false"}), config);
  EXPECT_FALSE(at::globalContext().allowTF32CuBLAS());
  EXPECT_FALSE(config.reproducible);  // on a GPU it would need deterministic kernels
}

TEST(EngineFlags, LayersTogetherDivideTheMicroBatches) {
  const auto flags = parse({"--layer_major", "4"});
  EXPECT_NO_THROW(check_layer_major(flags, 8));
  const auto text = message_of<RequestError>([&] { check_layer_major(flags, 6); });
  EXPECT_NE(text.find("--layer_major 4"), std::string::npos) << text;
  EXPECT_NE(text.find("6"), std::string::npos) << text;
}

TEST(EngineFlags, WithoutTrainingTheFlagsOfTrainingAreUnknown) {
  EngineFlags flags;
  Options options("tessera eval", "");
  bind_inference(options, flags);
  options.parse({"--placement", "resident", "--prefetch", "0"});
  EXPECT_EQ(flags.placement, "resident");
  EXPECT_THROW(options.parse({"--layer_major", "2"}), RequestError);
}

}  // namespace
}  // namespace tessera::train
