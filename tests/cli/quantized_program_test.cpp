// Quantised bases as users run them: `tessera forward` against PEFT over bitsandbytes
// (tests/golden/models/quantized.py), from plain folders and from those that bitsandbytes saved.
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <tuple>

#include "models/golden.hpp"
#include "support/support.hpp"
#include "tessera/core/file.hpp"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing_support::golden_model;
using testing_support::RunResult;

RunResult tessera(const std::string& arguments, int ranks = 1) {
  const std::string launcher = ranks == 1 ? ""
                                          : "OMPI_MCA_mpi_yield_when_idle=1 mpirun -n " + std::to_string(ranks) +
                                                " --oversubscribe --allow-run-as-root --bind-to none ";
  return testing_support::run(launcher + TESSERA_PROGRAM + " " + arguments);
}

/// The recorded run of `name` on the weights of `base`.
std::string forward(const std::string& name, const fs::path& base, const fs::path& outputs, const std::string& more) {
  const fs::path model = golden_model(name);
  return "forward --model " + base.string() + " --adapter " + (model / "adapter").string() + " --inputs " +
         (model / "inputs.safetensors").string() + " --outputs " + outputs.string() +
         " --dtype fp32 --grads trainable --dump_quantized 'layers.0.self_attn.k_proj|layers.1.mlp.down_proj' " + more;
}

const std::map<std::string, std::string> kFlags{{"qlora_nf4_double", "--quantize nf4 --double_quant true"},
                                                {"qlora_fp4", "--quantize fp4"},
                                                {"qlora_int8", "--quantize int8 --llm_int8_threshold 5"}};

class Qlora : public testing::TestWithParam<std::tuple<const char*, int>> {};

TEST_P(Qlora, GivesPeftsGradientsAndBitsandbytesBytes) {
  const auto [name, ranks] = GetParam();
  const testing_support::TempDir dir;
  const io::TensorMap wanted = io::read_tensors(golden_model(name) / "expected.safetensors");
  const auto check = [&, name = name, ranks = ranks](const fs::path& base, const std::string& flags) {
    const RunResult run = tessera(forward(name, base, dir / "out.safetensors", flags), ranks);
    ASSERT_EQ(run.status, 0) << run.output;
    EXPECT_EQ(testing_support::expect_all_close(io::read_tensors(dir / "out.safetensors"), wanted, {}), 36);
  };
  check(golden_model(name), kFlags.at(name));
  check(golden_model(std::string(name) + "_packed"), "");
}

INSTANTIATE_TEST_SUITE_P(Cli, Qlora,
                         testing::Combine(testing::Values("qlora_nf4_double", "qlora_fp4", "qlora_int8"),
                                          testing::Values(1, 2, 3)),
                         [](const auto& instance) {
                           return std::string(std::get<0>(instance.param)) + "_on_" +
                                  std::to_string(std::get<1>(instance.param));
                         });

TEST(QuantizedProgram, EndsWithStatusTwoOnWhatContradictsItself) {
  const testing_support::TempDir dir;
  const auto refused = [&](const fs::path& base, const std::string& flags, const std::string& words) {
    const RunResult run = tessera(forward("qlora_nf4_double", base, dir / "out.safetensors", flags));
    EXPECT_EQ(run.status, 2) << run.output;
    EXPECT_NE(run.output.find(words), std::string::npos) << run.output;
  };
  const fs::path plain = golden_model("qlora_nf4_double"), packed = golden_model("qlora_nf4_double_packed");
  refused(packed, "--quantize int8", "--quantize int8 contradicts");
  refused(packed, "--quantize nf4 --double_quant false", "--double_quant false contradicts");
  refused(plain, "--quantize nf5", "nf5");
  refused(plain, "--quantize int8 --double_quant true", "--double_quant");
  refused(plain, "--quantize int8 --llm_int8_threshold -1", "--llm_int8_threshold -1");
  refused(plain, "--quantize nf4 --llm_int8_threshold 6", "needs weights in int8");
  refused(packed, "--llm_int8_skip_modules q_proj", "hold weights in nf4");
  refused(plain, "--quantize nf4 --llm_int8_skip_modules q_prj", "did you mean");
  refused(plain, "--quantize nf4 --dump_quantized nothing_has_this_name", "--dump_quantized");
}

// The folder's config.json says 5; 0 and what is skipped are other logits.
TEST(QuantizedProgram, TheThresholdAndWhatIsSkippedChangeTheLogits) {
  const testing_support::TempDir dir;
  const auto logits = [&](const fs::path& base, const std::string& flags) {
    const RunResult run = tessera(forward("qlora_int8", base, dir / "out.safetensors", flags));
    EXPECT_EQ(run.status, 0) << run.output;
    return io::read_tensors(dir / "out.safetensors").at("logits").contiguous();
  };
  const fs::path plain = golden_model("qlora_int8"), packed = golden_model("qlora_int8_packed");
  const auto own = logits(packed, ""), six = logits(packed, "--llm_int8_threshold 6");
  EXPECT_TRUE(at::equal(own, logits(packed, "--llm_int8_threshold 5")));
  EXPECT_FALSE(at::equal(own, six));
  EXPECT_TRUE(at::equal(six, logits(plain, "--quantize int8")));
  EXPECT_FALSE(at::equal(own, logits(packed, "--llm_int8_threshold 0")));
  EXPECT_FALSE(at::equal(six, logits(plain, "--quantize int8 --llm_int8_skip_modules mlp")));
}

TEST(QuantizedProgram, WhatIsMergedFromAPackedFolderIsPlainAndSaysSo) {
  const testing_support::TempDir dir;
  const fs::path model = golden_model("qlora_nf4_double"), merged = dir / "merged";
  const RunResult run = tessera("merge --model " + golden_model("qlora_nf4_double_packed").string() + " --adapter " +
                                (model / "adapter").string() + " --output " + merged.string());
  ASSERT_EQ(run.status, 0) << run.output;
  EXPECT_EQ(read_file(merged / "config.json").find("quantization_config"), std::string::npos);
  const RunResult plain =
      tessera("forward --model " + merged.string() + " --inputs " + (model / "inputs.safetensors").string() +
              " --outputs " + (dir / "out.safetensors").string() + " --dtype fp32");
  ASSERT_EQ(plain.status, 0) << plain.output;
  const auto wanted = io::read_tensors(model / "expected.safetensors").at("logits");
  EXPECT_TRUE(testing_support::close(io::read_tensors(dir / "out.safetensors").at("logits"), wanted));
}

TEST(QuantizedProgram, APlanOfNf4HoldsAQuarterOfTheFrozenWeights) {
  const auto run = tessera("plan --model lisa-7b --quantize nf4 --double_quant true --ranks 8");
  EXPECT_EQ(run.status, 0) << run.output;
  EXPECT_NE(run.output.find("224 matrices in nf4 with double quantisation"), std::string::npos) << run.output;
}

}  // namespace
}  // namespace tessera
