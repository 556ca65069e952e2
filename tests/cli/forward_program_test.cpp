// `tessera forward` and `tessera merge` as users call them: the program, sharded over ranks, against the goldens.
#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <tuple>

#include "models/golden.hpp"
#include "support/support.hpp"

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

std::string forward(const fs::path& model, const fs::path& outputs, const std::string& more = "") {
  return "forward --model " + model.string() + " --inputs " + (model / "inputs.safetensors").string() + " --outputs " +
         outputs.string() + " --dtype fp32 " + more;
}

class ShardedForward : public testing::TestWithParam<std::tuple<const char*, int>> {};

TEST_P(ShardedForward, GivesTheGoldensOutputsAndGradients) {
  const auto [name, ranks] = GetParam();
  const testing_support::TempDir dir;
  const fs::path model = golden_model(name);
  std::string flags = "--grads all";
  if (fs::exists(model / "adapter")) flags += " --adapter " + (model / "adapter").string();
  const RunResult run = tessera(forward(model, dir / "out.safetensors", flags), ranks);
  ASSERT_EQ(run.status, 0) << run.output;
  const io::TensorMap wanted = io::read_tensors(model / "expected.safetensors");
  EXPECT_GT(testing_support::expect_all_close(io::read_tensors(dir / "out.safetensors"), wanted,
                                              {"grad_norm_total", "merged."}),
            10);
}

INSTANTIATE_TEST_SUITE_P(
    Cli, ShardedForward,
    testing::Combine(testing::Values("llama_grouped_left_padded", "llama_tied_llama3_rope", "clip_30px_gelu",
                                     "sam_facebook_names", "sam_package", "lisa_linear", "lora_all_rslora",
                                     "dora_all_linear", "qwen2_tied_right_padded", "mpt_five_heads_left_padded",
                                     "llava_original_mpt", "llava_hf_qwen2", "lisa_mpt", "fastvit_timm_branches",
                                     "fastvlm_apple", "llava_hf_mpt_layers", "lisa_qwen2_tied", "lisa_v0_two_layers"),
                     testing::Values(1, 2, 3)),
    [](const auto& instance) {
      return std::string(std::get<0>(instance.param)) + "_on_" + std::to_string(std::get<1>(instance.param));
    });

TEST(ForwardProgram, EndsWithStatusTwoOnARequestItCannotHonour) {
  const testing_support::TempDir dir;
  const fs::path model = golden_model("llama_right_padded");
  for (const char* flags : {"--grads no_such_weight", "--merge", "--no_such_flag 1"}) {
    const RunResult run = tessera(forward(model, dir / "out.safetensors", flags), 2);
    EXPECT_EQ(run.status, 2) << flags << ": " << run.output;
    EXPECT_FALSE(fs::exists(dir / "out.safetensors"));
  }
}

TEST(MergeProgram, AMergedFolderRunsAsTheAdapterBesideItsBase) {
  const testing_support::TempDir dir;
  const fs::path model = golden_model("lora_query_value");
  const RunResult merge = tessera("merge --model " + model.string() + " --adapter " + (model / "adapter").string() +
                                  " --output " + (dir / "merged").string());
  ASSERT_EQ(merge.status, 0) << merge.output;
  fs::copy(model / "inputs.safetensors", dir / "merged/inputs.safetensors");
  const RunResult run = tessera(forward(dir / "merged", dir / "out.safetensors"));
  ASSERT_EQ(run.status, 0) << run.output;
  EXPECT_EQ(testing_support::expect_all_close(io::read_tensors(dir / "out.safetensors"),
                                              io::read_tensors(model / "expected.safetensors"), {"merged.", "grad."}),
            3);
}

TEST(ReparameterizeProgram, AFoldedFolderRunsAsTheBranches) {
  const testing_support::TempDir dir;
  const fs::path model = golden_model("fastvit_apple_branches");
  const RunResult fold =
      tessera("reparameterize --model " + model.string() + " --output_dir " + (dir / "folded").string());
  ASSERT_EQ(fold.status, 0) << fold.output;
  fs::copy(model / "inputs.safetensors", dir / "folded/inputs.safetensors");
  const RunResult run = tessera(forward(dir / "folded", dir / "out.safetensors"), 2);
  ASSERT_EQ(run.status, 0) << run.output;
  EXPECT_EQ(testing_support::expect_all_close(io::read_tensors(dir / "out.safetensors"),
                                              io::read_tensors(model / "expected.safetensors"), {"grad."}),
            3);
  EXPECT_EQ(tessera("reparameterize --model " + (dir / "folded").string() + " --output_dir " + (dir / "again").string())
                .status,
            2);
}

}  // namespace
}  // namespace tessera
