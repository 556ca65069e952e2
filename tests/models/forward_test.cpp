#include "tessera/models/forward.hpp"

#include <ATen/ops/zeros.h>

#include "models/golden.hpp"
#include "nn/support.hpp"
#include "support/support.hpp"
#include "tessera/adapt/peft_folder.hpp"
#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

using testing_support::expect_all_close;
using testing_support::golden_model;

ForwardRequest request_for(const std::string& name, const std::string& grads) {
  ForwardRequest request;
  request.model = golden_model(name);
  request.grads = grads;
  if (name == "clip_31px_patch_6") request.select_layer = 2;
  return request;
}

TensorMap inputs_of(const std::string& name) {
  return io::read_tensors(golden_model(name) / "inputs.safetensors");
}

TensorMap expected_of(const std::string& name) {
  return io::read_tensors(golden_model(name) / "expected.safetensors");
}

class ForwardGolden : public testing::TestWithParam<const char*> {};

TEST_P(ForwardGolden, EveryOutputAndGradientIsThatOfThePublicPackage) {
  const std::string name = GetParam();
  const TensorMap expected = expected_of(name);
  const bool differentiates =
      std::any_of(expected.begin(), expected.end(), [](const auto& entry) { return entry.first.starts_with("grad."); });
  const TensorMap found = run_forward(request_for(name, differentiates ? "all" : ""), inputs_of(name));
  // The recorded norm is over what LISA trains, not over all weights; it has a test of its own.
  EXPECT_GT(expect_all_close(found, expected, {"grad_norm_total"}), 5);
}

INSTANTIATE_TEST_SUITE_P(Models, ForwardGolden,
                         testing::Values("llama_right_padded", "llama_grouped_left_padded", "llama_tied_llama3_rope",
                                         "clip_28px", "clip_30px_gelu", "clip_31px_patch_6", "sam_transformers_names",
                                         "sam_facebook_names", "sam_transformers_names_user", "sam_facebook_names_user",
                                         "sam_package", "sam_package_free_size", "lisa_linear", "lisa_mlp"),
                         [](const auto& instance) { return std::string(instance.param); });

INSTANTIATE_TEST_SUITE_P(FastVit, ForwardGolden,
                         testing::Values("fastvit_apple_branches", "fastvit_apple_folded", "fastvit_timm_branches",
                                         "fastvit_timm_folded", "fastvit_apple_two_heads_branches",
                                         "fastvit_apple_two_heads_folded", "fastvit_timm_two_heads_branches",
                                         "fastvit_timm_two_heads_folded"),
                         [](const auto& instance) { return std::string(instance.param); });

INSTANTIATE_TEST_SUITE_P(Language, ForwardGolden,
                         testing::Values("llama_dynamic_rope", "qwen2_tied_right_padded", "qwen2_grouped_left_padded",
                                         "qwen2_windowed", "mistral_windowed", "mpt_three_heads_clipped",
                                         "mpt_five_heads_left_padded"),
                         [](const auto& instance) { return std::string(instance.param); });

INSTANTIATE_TEST_SUITE_P(LisaFamilies, ForwardGolden,
                         testing::Values("lisa_qwen2", "lisa_mpt", "lisa_v0", "lisa_qwen2_tied", "lisa_mpt_five_heads",
                                         "lisa_v0_two_layers"),
                         [](const auto& instance) { return std::string(instance.param); });

INSTANTIATE_TEST_SUITE_P(Llava, ForwardGolden,
                         testing::Values("llava_original_llama", "llava_original_qwen2", "llava_original_mpt",
                                         "llava_original_llama_identity", "llava_original_qwen2_linear",
                                         "llava_original_mpt_apart", "llava_hf_llama", "llava_hf_qwen2", "llava_hf_mpt",
                                         "llava_hf_llama_three", "llava_hf_qwen2_untied", "llava_hf_mpt_layers",
                                         "fastvlm_apple", "fastvlm_transformers", "fastvlm_apple_convolutions",
                                         "fastvlm_transformers_three_stages"),
                         [](const auto& instance) { return std::string(instance.param); });

INSTANTIATE_TEST_SUITE_P(LlavaTiles, ForwardGolden,
                         testing::Values("llava_tiles_unpad", "llava_tiles_unpad_three", "llava_tiles_spatial",
                                         "llava_tiles_unpad_max", "llava_tiles_flat", "llava_tiles_unpad_mpt",
                                         "llava_next_llama", "llava_next_qwen2_three"),
                         [](const auto& instance) { return std::string(instance.param); });

TEST(Forward, ImageNewlineHasItsNameAndItsGradient) {
  for (const auto& [name, newline] : {std::pair{"llava_tiles_unpad", "model.image_newline"},
                                      std::pair{"llava_tiles_unpad_mpt", "transformer.image_newline"},
                                      std::pair{"llava_next_llama", "image_newline"}}) {
    const TensorMap expected = expected_of(name);
    const TensorMap found = run_forward(request_for(name, "image_newline"), inputs_of(name));
    const std::string key = std::string("grad.") + newline;
    ASSERT_TRUE(found.contains(key) && expected.contains(key)) << key;
    EXPECT_GT(expected.at(key).abs().max().item<double>(), 1e-3) << key;
    EXPECT_TRUE(testing_support::close(found.at(key), expected.at(key))) << key;
    EXPECT_FALSE(found.contains("grad.lm_head.weight"));
  }
}

TEST(Forward, ImagesWithoutSizesAreWholePictures) {
  TensorMap inputs = inputs_of("llava_tiles_unpad");
  inputs.erase("image_sizes");
  inputs.erase("image_tiles");
  inputs["images"] = inputs.at("images").narrow(0, 0, 4);
  const TensorMap found = run_forward(request_for("llava_tiles_unpad", "image_newline"), inputs);
  EXPECT_EQ(found.at("image_features").sizes(), (at::IntArrayRef{4, 4, 16}));
  EXPECT_EQ(found.at("grad.model.image_newline").abs().sum().item<double>(), 0.0);
}

// The weights of a llava_next folder keep their names and their bits.
TEST(Forward, MergeWithoutAdaptersGivesLlavaNextBack) {
  const testing_support::TempDir dir;
  const auto folder = golden_model("llava_next_llama");
  adapt::merge_folder({folder, {}, dir / "merged"});
  const TensorMap before = io::read_tensors(folder / "model.safetensors");
  const TensorMap after = io::read_tensors(dir / "merged/model.safetensors");
  EXPECT_EQ(after.size(), before.size());
  for (const auto& [name, value] : before) {
    ASSERT_TRUE(after.contains(name)) << name;
    EXPECT_TRUE(after.at(name).equal(value)) << name;
  }
  ForwardRequest request = request_for("llava_next_llama", "");
  request.model = dir / "merged";
  EXPECT_GT(
      expect_all_close(run_forward(request, inputs_of("llava_next_llama")), expected_of("llava_next_llama"), {"grad."}),
      5);
}

TEST(Forward, LlavaTakesTextAlone) {
  for (const char* name : {"llava_hf_llama", "llava_hf_qwen2", "llava_hf_mpt", "llava_hf_llama_three",
                           "llava_hf_qwen2_untied", "llava_hf_mpt_layers"}) {
    const TensorMap recorded = io::read_tensors(golden_model(name) / "text_only.safetensors");
    const TensorMap inputs{{"input_ids", recorded.at("input_ids")}, {"labels", recorded.at("input_ids")}};
    const TensorMap found = run_forward(request_for(name, ""), inputs);
    EXPECT_TRUE(testing_support::close(found.at("logits"), recorded.at("logits"))) << name;
    EXPECT_TRUE(testing_support::close(found.at("loss"), recorded.at("loss"))) << name;
  }
}

class LisaGolden : public testing::TestWithParam<const char*> {};

TEST_P(LisaGolden, TrainableGradientsAreThoseOfTheRecipeAndHaveItsNorm) {
  const std::string name = GetParam();
  const TensorMap expected = expected_of(name);
  const TensorMap found = run_forward(request_for(name, "trainable"), inputs_of(name));
  EXPECT_TRUE(testing_support::close(found.at("grad_norm_total"), expected.at("grad_norm_total")));
  EXPECT_TRUE(found.contains("grad.lm_head.weight"));
  EXPECT_FALSE(found.contains("grad.model.layers.0.self_attn.q_proj.weight"));
}

INSTANTIATE_TEST_SUITE_P(Models, LisaGolden,
                         testing::Values("lisa_linear", "lisa_mlp", "lisa_qwen2", "lisa_v0", "lisa_v0_two_layers"),
                         [](const auto& instance) { return std::string(instance.param); });

// Without an output layer of its own the embedding is trained in its place.
class LisaTiedGolden : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(LisaTiedGolden, TheEmbeddingWhichIsTheHeadTrains) {
  const auto [name, embedding] = GetParam();
  const TensorMap found = run_forward(request_for(name, "trainable"), inputs_of(name));
  EXPECT_TRUE(testing_support::close(found.at("grad_norm_total"), expected_of(name).at("grad_norm_total")));
  EXPECT_TRUE(found.contains(std::string("grad.") + embedding));
  for (const auto& [key, value] : found) {
    EXPECT_FALSE(key.starts_with("grad.transformer.blocks.") || key.starts_with("grad.model.layers.")) << key;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, LisaTiedGolden,
                         testing::Values(std::pair{"lisa_mpt", "transformer.wte.weight"},
                                         std::pair{"lisa_mpt_five_heads", "transformer.wte.weight"},
                                         std::pair{"lisa_qwen2_tied", "model.embed_tokens.weight"}),
                         [](const auto& instance) { return std::string(instance.param.first); });

class LoraGolden : public testing::TestWithParam<const char*> {};

TEST_P(LoraGolden, OutputsAndGradientsAreThoseOfPeft) {
  const std::string name = GetParam();
  ForwardRequest request = request_for(name, "all");
  request.adapters = {golden_model(name) / "adapter"};
  const TensorMap found = run_forward(request, inputs_of(name));
  EXPECT_GT(expect_all_close(found, expected_of(name), {"merged."}), 5);
}

TEST_P(LoraGolden, TrainableMeansWhatIsInTheAdaptersFile) {
  const std::string name = GetParam();
  const io::TensorMap file = io::read_tensors(golden_model(name) / "adapter/adapter_model.safetensors");
  ForwardRequest request = request_for(name, "trainable");
  request.adapters = {golden_model(name) / "adapter"};
  for (const auto& [key, value] : run_forward(request, inputs_of(name))) {
    if (key.starts_with("grad.")) {
      EXPECT_TRUE(file.contains(key.substr(5))) << key;
    }
  }
}

TEST_P(LoraGolden, TheMergedModelGivesTheSame) {
  const std::string name = GetParam();
  ForwardRequest request = request_for(name, "");
  request.adapters = {golden_model(name) / "adapter"};
  request.merge = true;
  TensorMap expected = expected_of(name);
  if (expected.erase("orth_reg") > 0) expected.erase("loss");  // the regulariser is the adapter's
  EXPECT_GE(expect_all_close(run_forward(request, inputs_of(name)), expected, {"merged.", "grad."}), 1);
}

INSTANTIATE_TEST_SUITE_P(Models, LoraGolden,
                         testing::Values("lora_query_value", "lora_all_rslora", "lora_regex_patterns",
                                         "lora_layer_indices", "lora_modules_to_save", "dora_all_linear",
                                         "dora_rslora_some", "adalora_pruned", "adalora_all_linear_pruned",
                                         "lora_pissa", "lora_olora", "lora_embedding", "lora_bias", "lora_base_bias"),
                         [](const auto& instance) { return std::string(instance.param); });

TEST(LoraGolden, AConvolutionsAdapterIsThatOfPeft) {
  const auto folder = golden_model("lora_clip_conv");
  ForwardRequest request = request_for("clip_28px", "trainable");
  request.adapters = {folder / "adapter"};
  const TensorMap expected = expected_of("lora_clip_conv");
  EXPECT_GT(expect_all_close(run_forward(request, inputs_of("clip_28px")), expected), 8);
  request.merge = true;
  request.grads.clear();
  const TensorMap merged = run_forward(request, inputs_of("clip_28px"));
  EXPECT_TRUE(testing_support::close(merged.at("selected.cls_patch"), expected.at("selected.cls_patch")));
}

TEST(AdaLoraGolden, BeforeTrainingOutputsAndGradientsAreThoseOfPeft) {
  for (const std::string name : {"adalora", "adalora_all_linear"}) {
    ForwardRequest request = request_for(name, "trainable");
    request.adapters = {golden_model(name) / "adapter"};
    const TensorMap expected = expected_of(name);
    EXPECT_TRUE(expected.contains("orth_reg"));
    EXPECT_GT(expect_all_close(run_forward(request, inputs_of(name)), expected), 15) << name;
  }
}

// PEFT's names over transformers' LLaVA are those of its modules: forward and merge find the files' by them.
TEST(LoraGolden, AnAdapterOverTransformersLlavaIsThatOfPeftAlsoMerged) {
  const auto adapter = golden_model("lora_llava") / "adapter";
  const TensorMap expected = expected_of("lora_llava");
  ForwardRequest request = request_for("llava_hf_llama", "");
  request.adapters = {adapter};
  EXPECT_EQ(expect_all_close(run_forward(request, inputs_of("llava_hf_llama")), expected), 2);
  const testing_support::TempDir dir;
  const auto report = adapt::merge_folder({golden_model("llava_hf_llama"), {adapter}, dir / "merged"});
  EXPECT_EQ(report.merged, 8);
  EXPECT_EQ(report.replaced, 4);
  request.adapters.clear();
  request.model = dir / "merged";
  EXPECT_EQ(expect_all_close(run_forward(request, inputs_of("llava_hf_llama")), expected), 2);
}

struct PrefixCase {
  const char* golden;
  std::vector<const char*> adapters = {"adapter"};
};
class PrefixGolden : public testing::TestWithParam<PrefixCase> {};

TEST_P(PrefixGolden, OutputsAndGradientsAreThoseOfPeft) {
  const std::string name = GetParam().golden;
  ForwardRequest request = request_for(name, "trainable");
  const TensorMap plain = run_forward(request_for(name, ""), inputs_of(name));
  for (const char* folder : GetParam().adapters) request.adapters.push_back(golden_model(name) / folder);
  const TensorMap expected = expected_of(name);
  const TensorMap found = run_forward(request, inputs_of(name));
  EXPECT_GE(expect_all_close(found, expected), 2);
  EXPECT_GT(testing_support::distance(plain.at("logits"), found.at("logits")), 0.05) << "the prefix has no effect";
}

INSTANTIATE_TEST_SUITE_P(Models, PrefixGolden,
                         testing::Values(PrefixCase{"prefix_grouped"}, PrefixCase{"prefix_mpt"},
                                         PrefixCase{"prefix_projected"},
                                         PrefixCase{"prefix_and_lora", {"adapter", "prefix"}},
                                         PrefixCase{"prefix_and_lora", {"prefix", "adapter"}}),
                         [](const auto& instance) {
                           return std::string(instance.param.golden) + "_" + instance.param.adapters.front();
                         });

std::string error_of(const ForwardRequest& request, const TensorMap& inputs) {
  try {
    run_forward(request, inputs);
  } catch (const RequestError& error) {
    return error.what();
  }
  return "";
}

TEST(PrefixGolden, WithPicturesBeforeTheTextItIsThatOfPeft) {
  ForwardRequest request = request_for("llava_hf_llama", "trainable");
  request.adapters = {golden_model("prefix_llava") / "adapter"};
  EXPECT_EQ(expect_all_close(run_forward(request, inputs_of("llava_hf_llama")), expected_of("prefix_llava")), 3);
}

TEST(PrefixGolden, TwoOfOneKindOrAMergeAreRefused) {
  ForwardRequest request = request_for("prefix_and_lora", "");
  const auto folder = golden_model("prefix_and_lora");
  const TensorMap inputs = inputs_of("prefix_and_lora");
  request.adapters = {folder / "prefix", folder / "prefix"};
  EXPECT_NE(error_of(request, inputs).find("has a prefix already"), std::string::npos);
  request.adapters = {folder / "adapter", folder / "adapter"};
  EXPECT_NE(error_of(request, inputs).find("side by side"), std::string::npos);
  request.adapters = {folder / "prefix"};
  request.merge = true;
  EXPECT_NE(error_of(request, inputs).find("is a prefix"), std::string::npos);
  request = request_for("prefix_and_lora", "");
  request.adapters = {golden_model("prefix_mpt") / "adapter"};
  EXPECT_NE(error_of(request, inputs).find("this model takes"), std::string::npos);
}

TEST(Forward, NamesAnInputItHasNoUseFor) {
  TensorMap inputs = inputs_of("llama_right_padded");
  inputs["positions"] = at::zeros({1});
  EXPECT_NE(error_of(request_for("llama_right_padded", ""), inputs).find("'positions'"), std::string::npos);
}

TEST(Forward, RefusesTilesThatContradictTheirSizes) {
  const auto refusal = [](const char* name, const std::function<void(TensorMap&)>& change) {
    TensorMap inputs = inputs_of(name);
    change(inputs);
    return error_of(request_for(name, ""), inputs);
  };
  const auto contains = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  EXPECT_TRUE(contains(refusal("llava_next_llama", [](TensorMap& in) { in.erase("image_sizes"); }),
                       "'image_sizes' is missing"));
  EXPECT_TRUE(contains(
      refusal("llava_next_llama", [](TensorMap& in) { in["pixel_values"] = in.at("pixel_values").narrow(1, 0, 3); }),
      "there is room for 3"));
  EXPECT_TRUE(contains(
      refusal("llava_next_llama", [](TensorMap& in) { in["pixel_values"] = in.at("pixel_values").narrow(0, 0, 2); }),
      "has 2 pictures"));
  EXPECT_TRUE(contains(refusal("llava_tiles_unpad", [](TensorMap& in) { in.erase("image_sizes"); }), "'image_sizes'"));
  EXPECT_TRUE(contains(refusal("llava_tiles_unpad", [](TensorMap& in) { in.erase("image_tiles"); }), "tiles in all"));
  EXPECT_TRUE(contains(refusal("llava_original_llama",
                               [](TensorMap& in) {
                                 in["image_sizes"] = at::zeros({4, 2}, at::kLong);
                               }),
                       "is not anyres"));
}

TEST(Forward, NamesAnInputThatIsMissing) {
  EXPECT_NE(error_of(request_for("clip_28px", ""), {}).find("'pixel_values' is missing"), std::string::npos);
}

TEST(Forward, RefusesAPatternThatMatchesNoWeight) {
  EXPECT_NE(error_of(request_for("clip_28px", "no_such_layer"), inputs_of("clip_28px")).find("matches no weight"),
            std::string::npos);
}

TEST(Forward, RefusesGradientsOfInputsThatGiveNoObjective) {
  TensorMap inputs = inputs_of("clip_28px");
  inputs.erase("cotangent");
  EXPECT_NE(error_of(request_for("clip_28px", "all"), inputs).find("nothing to differentiate"), std::string::npos);
}

TEST(Forward, APatternChoosesByTheNameInTheFiles) {
  const TensorMap found =
      run_forward(request_for("sam_transformers_names", "vision_encoder\\.neck"), inputs_of("sam_transformers_names"));
  int gradients = 0;
  for (const auto& [key, value] : found) gradients += key.starts_with("grad.") ? 1 : 0;
  EXPECT_EQ(gradients, 6);  // two convolutions, two norms with weight and bias
  EXPECT_TRUE(found.contains("grad.vision_encoder.neck.conv1.weight"));
}

TEST(Forward, NamesAModelTypeThatIsNotSupported) {
  const testing_support::TempDir folder;
  testing_support::write_file(folder / "config.json", R"({"model_type": "gpt2"})");
  ForwardRequest request;
  request.model = folder.path();
  EXPECT_NE(error_of(request, {}).find("'gpt2'"), std::string::npos);
}

TEST(Forward, SamsOwnFileMayHaveAnyName) {
  const testing_support::TempDir folder;
  const auto golden = golden_model("sam_facebook_names");
  std::filesystem::copy(golden / "config.json", folder / "config.json");
  std::filesystem::copy(golden / "model.safetensors", folder / "sam_vit_tiny.safetensors");
  ForwardRequest request;
  request.model = folder.path();
  EXPECT_EQ(error_of(request, inputs_of("sam_facebook_names")), "");
  std::filesystem::copy(golden / "model.safetensors", folder / "another.safetensors");
  EXPECT_NE(error_of(request, inputs_of("sam_facebook_names")).find("2 files"), std::string::npos);
}

TEST(Forward, MergingNeedsAnAdapter) {
  ForwardRequest request = request_for("lora_query_value", "");
  request.merge = true;
  EXPECT_NE(error_of(request, inputs_of("lora_query_value")).find("--adapter"), std::string::npos);
}

TEST(Forward, LlamaDifferentiatesACotangentOnItsLogits) {
  TensorMap inputs = inputs_of("llama_right_padded");
  const TensorMap plain = run_forward(request_for("llama_right_padded", ""), inputs);
  inputs.erase("labels");
  inputs["cotangent"] = at::zeros(plain.at("logits").sizes());
  inputs["cotangent"].select(2, 3).fill_(2.0);
  const TensorMap found = run_forward(request_for("llama_right_padded", "lm_head"), inputs);
  EXPECT_TRUE(testing_support::close(found.at("loss"), plain.at("logits").select(2, 3).sum().mul(2.0)));
  // d loss / d lm_head.weight[3] = 2 * sum of the normalised hidden states; other rows have none.
  const at::Tensor grad = found.at("grad.lm_head.weight");
  EXPECT_TRUE(testing_support::close(grad[3], plain.at("last_hidden_state").flatten(0, 1).sum(0).mul(2.0)));
  EXPECT_EQ(grad[4].abs().sum().item<double>(), 0.0);
}

}  // namespace
}  // namespace tessera::models
