#include "tessera/core/options.hpp"

#include <gtest/gtest.h>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera {
namespace {

using testing_support::message_of;
using testing_support::TempDir;
using testing_support::write_file;

struct Settings {
  bool bf16 = true;
  std::int64_t steps = 10;
  double lr = 3e-4;
  std::string model = "toy";
  std::vector<std::string> adapter;
  std::optional<std::int64_t> limit;
  std::optional<double> projector_lr = 2e-5;
  std::optional<std::string> tower;
  std::optional<bool> merge;

  Options bind() {
    Options options("tessera train", "Trains a model.");
    options.add("bf16", &bf16, "compute in bf16")
        .add("steps", &steps, "optimiser steps", {.group = "Optimiser", .unit = "steps", .min = 1})
        .add("lr", &lr, "peak learning rate", {.group = "Optimiser"})
        .add("version", &model, "the model", {.choices = {"toy", "7b", "13b"}})
        .add("adapter", &adapter, "adapter folders")
        .add("limit", &limit, "samples at most", {.unit = "samples"})
        .add("mm_projector_lr", &projector_lr, "rate of the projector", {.group = "Optimiser"})
        .add("vision_tower", &tower, "the tower's folder")
        .add("merge", &merge, "merge first")
        .add_ignored("local_rank", "the launcher knows it")
        .add_alias("learning_rate", "lr")
        .add_alias("fast", "bf16");
    return options;
  }
};

std::string parse_message(const std::vector<std::string>& args) {
  Settings settings;
  Options options = settings.bind();
  return message_of<RequestError>([&] { options.parse(args); });
}

TEST(Options, ReadsEveryTypeFromFlags) {
  Settings s;
  Options options = s.bind();
  options.parse({"--no_bf16", "--steps=7", "--lr", "1e-5", "--version", "7b", "--adapter", "a", "b", "--adapter", "c",
                 "--limit", "5", "--mm_projector_lr", "none", "--vision_tower", "clip", "--merge", "false"});
  EXPECT_FALSE(s.bf16);
  EXPECT_EQ(s.steps, 7);
  EXPECT_EQ(s.lr, 1e-5);
  EXPECT_EQ(s.model, "7b");
  EXPECT_EQ(s.adapter, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(s.limit, 5);
  EXPECT_FALSE(s.projector_lr.has_value());
  EXPECT_EQ(s.tower, "clip");
  EXPECT_EQ(s.merge, false);
  EXPECT_TRUE(options.given("steps"));
}

TEST(Options, KeepsDefaultsThatNobodySet) {
  Settings s;
  Options options = s.bind();
  options.parse({});
  EXPECT_TRUE(s.bf16);
  EXPECT_EQ(s.steps, 10);
  EXPECT_EQ(s.projector_lr, 2e-5);
  EXPECT_FALSE(options.given("steps"));
}

TEST(Options, AcceptsDashesForUnderscores) {
  Settings s;
  Options options = s.bind();
  options.parse({"--mm-projector-lr=0.5", "--no-bf16", "--vision-tower", "a-b"});
  EXPECT_EQ(s.projector_lr, 0.5);
  EXPECT_FALSE(s.bf16);
  EXPECT_EQ(s.tower, "a-b");
}

TEST(Options, TakesABoolWithAndWithoutAValue) {
  Settings s;
  Options options = s.bind();
  options.parse({"--bf16", "False", "--merge", "--steps", "3"});
  EXPECT_FALSE(s.bf16);
  EXPECT_EQ(s.merge, true);
  EXPECT_EQ(s.steps, 3);
}

TEST(Options, TakesNegativeNumbersAsValues) {
  Settings s;
  Options options = s.bind();
  options.parse({"--limit", "-2", "--lr", "-.5"});
  EXPECT_EQ(s.limit, -2);
  EXPECT_EQ(s.lr, -0.5);
}

TEST(Options, LetsTheLastOfARepeatedFlagWin) {
  Settings s;
  Options options = s.bind();
  options.parse({"--steps", "3", "--steps", "4"});
  EXPECT_EQ(s.steps, 4);
}

TEST(Options, NamesTheNearestNeighbourOfAnUnknownFlag) {
  EXPECT_EQ(parse_message({"--mm_projektor_lr", "1"}),
            "--mm_projektor_lr: no such option; did you mean --mm_projector_lr?");
  EXPECT_EQ(parse_message({"--stpes=3"}), "--stpes: no such option; did you mean --steps?");
  EXPECT_EQ(parse_message({"--zzzzzzzz"}), "--zzzzzzzz: no such option; 'tessera train --help' lists them");
}

TEST(Options, RefusesMalformedValuesByName) {
  EXPECT_EQ(parse_message({"--steps", "3.5"}), "--steps: '3.5' is not a whole number");
  EXPECT_EQ(parse_message({"--steps", "99999999999999999999"}),
            "--steps: '99999999999999999999' is not a number of 64 bits");
  EXPECT_EQ(parse_message({"--lr", "fast"}), "--lr: 'fast' is not a number");
  EXPECT_EQ(parse_message({"--lr", "nan"}), "--lr: 'nan' is not a number");
  EXPECT_EQ(parse_message({"--lr", "+inf"}), "--lr: '+inf' is not finite");
  EXPECT_EQ(parse_message({"--bf16=maybe"}), "--bf16: 'maybe' is not true or false");
  EXPECT_EQ(parse_message({"--steps", "0"}), "--steps: 0 is too small, the smallest allowed value is 1");
  EXPECT_EQ(parse_message({"--version", "70b"}), "--version: '70b' is not one of toy, 7b, 13b");
}

TEST(Options, RefusesAFlagWhoseValueIsAnotherFlag) {
  EXPECT_EQ(parse_message({"--version", "--lr", "3"}), "--version: a value is missing (TEXT)");
  EXPECT_EQ(parse_message({"--steps"}), "--steps: a value is missing (INT)");
}

TEST(Options, RefusesAStrayArgument) {
  EXPECT_NE(parse_message({"--steps", "3", "stray"}).find("stray"), std::string::npos);
}

TEST(Options, WarnsOfAnIgnoredFlagAndSwallowsItsValue) {
  Settings s;
  Options options = s.bind();
  const auto outcome = options.parse({"--local_rank", "3", "--steps", "2"});
  ASSERT_EQ(outcome.warnings.size(), 1U);
  EXPECT_EQ(outcome.warnings[0], "--local_rank has no effect here: the launcher knows it");
  EXPECT_EQ(s.steps, 2);
  EXPECT_EQ(options.parse({"--local_rank", "0", "1", "--steps", "3"}).warnings.size(), 1U);
  EXPECT_EQ(s.steps, 3);
}

TEST(Options, SaysNothingOfAnIgnoredFlagThatAsksForWhatIsDone) {
  bool fast = true;
  const auto warnings = [&](const std::vector<std::string>& args) {
    Options options("tessera train", "Trains a model.");
    options.add("fast", &fast, "be fast").add_ignored("compile", "no").add_ignored("shard", "always", "true");
    return options.parse(args).warnings.size();
  };
  for (const std::string value : {"", "none", "None", "false", "False", "0", "no"}) {
    EXPECT_EQ(warnings({"--compile", value}), 0U) << value;
  }
  EXPECT_EQ(warnings({"--compile"}), 1U);
  EXPECT_EQ(warnings({"--compile", "inductor"}), 1U);
  EXPECT_EQ(warnings({"--compile=yes"}), 1U);
  EXPECT_EQ(warnings({"--shard"}), 0U);
  EXPECT_EQ(warnings({"--shard", "True"}), 0U);
  EXPECT_EQ(warnings({"--shard=false"}), 1U);
  TempDir dir;
  write_file(dir / "run.toml", "compile = false\nshard = false\n");
  EXPECT_EQ(warnings({"--config", (dir / "run.toml").string()}), 1U);
}

TEST(Options, TakesAnotherNameForASetting) {
  Settings s;
  Options options = s.bind();
  EXPECT_TRUE(options.parse({"--learning-rate", "0.5", "--no_fast"}).warnings.empty());
  EXPECT_EQ(s.lr, 0.5);
  EXPECT_FALSE(s.bf16);
  EXPECT_TRUE(options.given("lr") && options.given("learning_rate"));
  options.parse({"--learning_rate", "1", "--lr", "2"});
  EXPECT_EQ(s.lr, 2);
  options.parse({"--lr", "2", "--learning_rate=1"});
  EXPECT_EQ(s.lr, 1);
  TempDir dir;
  write_file(dir / "run.toml", "learning_rate = 3\n");
  options.parse({"--config", (dir / "run.toml").string()});
  EXPECT_EQ(s.lr, 3);
  options.parse({"--config", (dir / "run.toml").string(), "--lr", "4"});
  EXPECT_EQ(s.lr, 4);
  EXPECT_EQ(options.dump_toml().find("learning_rate"), std::string::npos);
  EXPECT_NE(options.help().find("--learning_rate: --lr"), std::string::npos);
  EXPECT_EQ(parse_message({"--learning_rat", "1"}), "--learning_rat: no such option; did you mean --learning_rate?");
  EXPECT_EQ(parse_message({"--learning_rate", "fast"}), "--lr: 'fast' is not a number");
}

TEST(Options, ANameIsDeclaredOnceAndAnotherNameOnlyOfWhatIsThere) {
  Settings s;
  EXPECT_THROW(s.bind().add_alias("steps", "lr"), RunError);
  EXPECT_THROW(s.bind().add_alias("rate", "rat"), RunError);
  EXPECT_THROW(s.bind().add_ignored("learning_rate", "twice"), RunError);
}

TEST(Options, ReadsAFileAndLetsFlagsBeatIt) {
  TempDir dir;
  write_file(dir / "run.toml",
             "# a run\nsteps = 5\nlr = 1\nmm-projector-lr = \"none\"\nadapter = [\"x\", \"y\"]\nbf16 = false\n");
  Settings s;
  Options options = s.bind();
  options.parse({"--steps", "6", "--config", (dir / "run.toml").string()});
  EXPECT_EQ(s.steps, 6);
  EXPECT_EQ(s.lr, 1.0);
  EXPECT_FALSE(s.projector_lr.has_value());
  EXPECT_EQ(s.adapter, (std::vector<std::string>{"x", "y"}));
  EXPECT_FALSE(s.bf16);
}

TEST(Options, NamesFileAndLineOfABadConfig) {
  TempDir dir;
  const auto message = [&](const std::string& text) {
    write_file(dir / "c.toml", text);
    std::string said = parse_message({"--config", (dir / "c.toml").string()});
    const auto at = said.find("c.toml");
    return at == std::string::npos ? said : said.substr(at);
  };
  EXPECT_EQ(message("lr = 1\n\nstpes = 3\n"), "c.toml:3: stpes: no such option; did you mean --steps?");
  EXPECT_EQ(message("steps = \"3\"\n"), "c.toml:1: steps: '3' is not a whole number");
  EXPECT_EQ(message("steps = true\n"), "c.toml:1: steps: 'true' is not a whole number");
  EXPECT_EQ(message("version = 3\n"), "c.toml:1: version: 3 is not a text; write it in quotes");
  EXPECT_EQ(message("adapter = \"a\"\n"), "c.toml:1: adapter: a is not a list; write it in brackets");
  EXPECT_EQ(message("[train]\nsteps = 3\n"),
            "c.toml:1: train: tables are not used here; all keys stand at the top level");
  EXPECT_EQ(message("lr = 1\nsteps = = 3\n").substr(0, 9), "c.toml:2:");
  EXPECT_NE(parse_message({"--config", (dir / "none.toml").string()}).find("none.toml"), std::string::npos);
  EXPECT_NE(parse_message({"--config", dir.path().string()}).find("directory"), std::string::npos);
}

TEST(Options, DumpsWhatIsInForceSoThatItReadsBack) {
  TempDir dir;
  Settings a;
  Options first = a.bind();
  a.lr = 1.0 / 3.0;
  first.parse({"--no_bf16", "--vision_tower", "a \"quoted\" \\ path\n\x01é", "--adapter", "p q", "",
               "--mm_projector_lr", "none", "--steps", "9007199254740993"});
  write_file(dir / "dump.toml", first.dump_toml());
  Settings b;
  Options second = b.bind();
  second.parse({"--config", (dir / "dump.toml").string()});
  EXPECT_EQ(b.bf16, a.bf16);
  EXPECT_EQ(b.lr, a.lr);
  EXPECT_EQ(b.steps, 9007199254740993);
  EXPECT_EQ(b.tower, a.tower);
  EXPECT_EQ(b.adapter, a.adapter);
  EXPECT_EQ(b.projector_lr, a.projector_lr);
  EXPECT_EQ(b.merge, a.merge);
  EXPECT_EQ(second.dump_toml(), first.dump_toml());
}

TEST(Options, DemandsWhatIsRequiredUnlessHelpIsAsked) {
  std::string input;
  Options options("tessera inspect", "Shows a file.");
  options.add("input", &input, "the file", {.required = true, .positional = true});
  EXPECT_EQ(message_of<RequestError>([&] { options.parse({}); }), "--input is required: the file");
  EXPECT_TRUE(options.parse({"--help"}).help);
  options.parse({"a.h5"});
  EXPECT_EQ(input, "a.h5");
  options.parse({"--input", "b.h5"});
  EXPECT_EQ(input, "b.h5");
}

TEST(Options, HelpShowsGroupsDefaultsUnitsAndChoices) {
  Settings s;
  const std::string text = s.bind().help();
  const auto optimiser = text.find("\nOptimiser:");
  ASSERT_NE(optimiser, std::string::npos) << text;
  ASSERT_NE(text.find("\nGeneral:"), std::string::npos) << text;
  const auto steps = text.find("--steps");
  EXPECT_GT(steps, optimiser);
  EXPECT_NE(text.find("optimiser steps [unit: steps; at least 1; default: 10]"), std::string::npos) << text;
  EXPECT_NE(text.find("one of: toy, 7b, 13b"), std::string::npos) << text;
  EXPECT_NE(text.find("--config"), std::string::npos);
  EXPECT_NE(text.find("--local_rank: the launcher knows it"), std::string::npos) << text;
}

TEST(Options, RefusesToDeclareANameTwice) {
  Settings s;
  Options options = s.bind();
  EXPECT_THROW(options.add("lr", &s.lr, "again"), RunError);
}

TEST(NearestName, FindsSwapsAndStaysSilentWhenNothingIsNear) {
  const std::vector<std::string> names{"lora_r", "lora_alpha", "lr"};
  EXPECT_EQ(nearest_name("lora_alhpa", names), "lora_alpha");
  EXPECT_EQ(nearest_name("lora_rr", names), "lora_r");
  EXPECT_EQ(nearest_name("quantize", names), "");
}

TEST(Options, AnEmptyValueStaysEmptyAndLeavesTheNextFlagAlone) {
  for (const bool joined : {true, false}) {
    std::string text = "default";
    double number = 0.1;
    Options options("test", "");
    options.add("text", &text, "");
    options.add("number", &number, "");
    options.parse(joined ? std::vector<std::string>{"--text=", "--number", "-1"}
                         : std::vector<std::string>{"--text", "", "--number=-1"});
    EXPECT_EQ(text, "");
    EXPECT_EQ(number, -1.0);
  }
}

}  // namespace
}  // namespace tessera
