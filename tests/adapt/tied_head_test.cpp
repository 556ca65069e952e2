#include "tessera/adapt/tied_head.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "models/golden.hpp"
#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/io/tensor_file.hpp"

namespace tessera::adapt {
namespace {

using testing_support::message_of;
using testing_support::TempDir;

bool parts(const std::string& saved, const io::TensorMap& tensors, const std::string& more = "") {
  const TempDir dir;
  testing_support::write_file(
      dir / "adapter_config.json",
      R"({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "modules_to_save": )" + saved + more + "}");
  io::write_tensors(dir / "adapter_model.safetensors", tensors);
  return parts_head({dir.path()});
}

TEST(TiedHead, AnAdapterOnTheEmbeddingOrTheHeadPartsThem) {
  const at::Tensor some = at::randn({2, 3});
  const std::string model = "base_model.model.";
  EXPECT_FALSE(parts("null", {{model + "model.layers.0.q_proj.lora_A.weight", some}}));
  EXPECT_FALSE(parts(R"(["norm"])", {{model + "model.embed_tokens.weight", some}})) << "saved along with an adapter";
  EXPECT_TRUE(parts(R"(["lm_head"])", {{model + "lm_head.weight", some}}));
  const std::string one = R"(, "ensure_weight_tying": true)";
  EXPECT_FALSE(parts(R"(["embed_tokens"])", {{model + "model.embed_tokens.weight", some}}, one));
  EXPECT_THROW(parts(R"(["lm_head"])", {{model + "lm_head.weight", some}}, one), RequestError);
  EXPECT_TRUE(parts(R"(["lm_head", "embed_tokens"])", {{model + "lm_head.weight", some}}, one)) << "each by itself";
  EXPECT_TRUE(parts(R"(["model.embed_tokens"])", {{model + "model.embed_tokens.weight", some}}, one));
  EXPECT_TRUE(parts(R"(["wte"])", {{model + "transformer.wte.weight", some}}, one));
  EXPECT_TRUE(parts("null", {{model + "model.embed_tokens.lora_embedding_A", some}}));
  EXPECT_TRUE(parts("null", {{model + "transformer.wte.lora_embedding_A", some}}));
  EXPECT_TRUE(parts("null", {{model + "lm_head.lora_A.weight", some}}));
}

TEST(TiedHead, AHeadOfItsOwnBeginsAsTheEmbedding) {
  for (const auto& [embedding, head] :
       {std::pair<std::string, std::string>{"model.embed_tokens.weight", "lm_head.weight"},
        {"language_model.model.embed_tokens.weight", "language_model.lm_head.weight"},
        {"transformer.wte.weight", "lm_head.weight"}}) {
    const TempDir dir;
    const at::Tensor table = at::randn({5, 3});
    io::write_tensors(dir / "model.safetensors", {{embedding, table}, {"model.norm.weight", at::randn({3})}});
    const auto files = with_own_head(io::open_weights(dir.path()));
    EXPECT_EQ(files->tensors().size(), 3U);
    EXPECT_TRUE(testing_support::close(io::read_tensor(*files, head), table, 0, 0));
    EXPECT_TRUE(testing_support::close(io::read_tensor(*files, embedding), table, 0, 0));
  }
}

TEST(TiedHead, WeightsWithoutAnEmbeddingAreRefused) {
  const TempDir dir;
  io::write_tensors(dir / "model.safetensors", {{"model.norm.weight", at::randn({5})}});
  EXPECT_NE(message_of<RequestError>([&] { with_own_head(io::open_weights(dir.path())); }).find("embedding"),
            std::string::npos);
}

TEST(TiedHead, AnAdapterThatBeginsInWhatBothAreIsRefused) {
  const TempDir dir;
  testing_support::write_file(dir / "adapter_config.json",
                              R"({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "init_lora_weights": "pissa"})");
  io::write_tensors(dir / "adapter_model.safetensors", {{"base_model.model.lm_head.lora_A.weight", at::randn({2, 3})}});
  EXPECT_NE(message_of<RequestError>([&] { parts_head({dir.path()}); }).find("pissa"), std::string::npos);
}

TEST(TiedHead, AConfigSaysWhetherTheHeadIsTheEmbedding) {
  for (const char* text : {R"({"model_type": "mpt"})", R"({"tie_word_embeddings": true, "model_type": "qwen2"})",
                           R"({"model_type": "llava", "text_config": {"tie_word_embeddings": true}})"}) {
    auto config = nlohmann::json::parse(text);
    EXPECT_TRUE(is_tied(config)) << text;
    say_untied(config);
    EXPECT_FALSE(is_tied(config)) << text;
    EXPECT_EQ(config.at("tie_word_embeddings"), false);
  }
  EXPECT_FALSE(is_tied(nlohmann::json::parse(R"({"model_type": "llama"})")));
}

}  // namespace
}  // namespace tessera::adapt
