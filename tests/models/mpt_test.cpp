#include "tessera/models/mpt.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "nn/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

using testing_support::distance;

nlohmann::json config_json() {
  return {{"vocab_size", 19}, {"d_model", 12}, {"n_layers", 2}, {"n_heads", 3}, {"expansion_ratio", 4}};
}

struct Fixture {
  nn::ModelLayout layout;
  Mpt model;
  nn::LocalRunner runner;
  explicit Fixture(const nlohmann::json& json = config_json()) : model(make(json)) {
    model.add_embedding(layout);
    model.add_decoder(layout);
    nn::materialize(layout, 1);
  }
  static MptConfig make(const nlohmann::json& json) {
    MptConfig config = MptConfig::from_json(json);
    config.initializer_range = 0.3;
    return config;
  }
  at::Tensor hidden(const std::vector<std::int64_t>& ids) {
    const at::Tensor rows = at::tensor(ids, at::kLong).unsqueeze(0);
    return model.decode(model.embed(rows, runner), at::ones(rows.sizes(), at::kBool), runner, {});
  }
};

TEST(Mpt, ALaterTokenDoesNotChangeAnEarlierPosition) {
  Fixture f;
  const at::Tensor a = f.hidden({3, 7, 1, 9, 2});
  const at::Tensor b = f.hidden({3, 7, 1, 9, 5});
  EXPECT_LT(distance(a.narrow(1, 0, 4), b.narrow(1, 0, 4)), 1e-5);
  EXPECT_GT(distance(a, b), 1e-2);
}

TEST(Mpt, TheRowsAskedForAreThoseOfAll) {
  Fixture f;
  const at::Tensor all = f.hidden({3, 7, 1, 9, 2}).select(0, 0);
  const at::Tensor ids = at::tensor(std::vector<std::int64_t>{3, 7, 1, 9, 2}, at::kLong).unsqueeze(0);
  DecodeOptions options;
  options.rows = at::tensor(std::vector<std::int64_t>{4, 1}, at::kLong);
  const at::Tensor some =
      f.model.decode(f.model.embed(ids, f.runner), at::ones(ids.sizes(), at::kBool), f.runner, {}, options);
  EXPECT_LT(distance(some, all.index_select(0, options.rows)), 1e-5);
}

TEST(Mpt, TheHeadIsTheEmbeddingUnlessTheConfigSaysOtherwise) {
  Fixture tied;
  EXPECT_EQ(tied.layout.find("lm_head.weight"), nullptr);
  auto json = config_json();
  json["tie_word_embeddings"] = false;
  Fixture untied(json);
  EXPECT_EQ(untied.layout.total_elements() - tied.layout.total_elements(), 19 * 12);
}

TEST(Mpt, ClippingActsOnQueryKeyAndValue) {
  auto json = config_json();
  json["attn_config"] = {{"clip_qkv", 1e-3}};
  EXPECT_GT(distance(Fixture(json).hidden({3, 7, 1}), Fixture().hidden({3, 7, 1})), 1e-3);
  json["attn_config"] = {{"clip_qkv", nullptr}};
  EXPECT_EQ(distance(Fixture(json).hidden({3, 7, 1}), Fixture().hidden({3, 7, 1})), 0.0);
}

TEST(MptConfig, ReadsMosaicMlsOwnConfig) {
  // The keys of mosaicml/mpt-7b-instruct that matter here, and some that do not.
  const MptConfig config = MptConfig::from_json(nlohmann::json::parse(R"({"model_type": "mpt", "d_model": 4096,
    "n_layers": 32, "n_heads": 32, "expansion_ratio": 4, "vocab_size": 50432, "max_seq_len": 2048, "no_bias": true,
    "learned_pos_emb": true, "logit_scale": null, "norm_type": "low_precision_layernorm", "attn_config": {"alibi": true,
    "alibi_bias_max": 8, "attn_impl": "torch", "clip_qkv": null, "prefix_lm": false, "qk_ln": false,
    "softmax_scale": null}})"));
  EXPECT_EQ(config.vocab_size, 50432);
  EXPECT_EQ(config.hidden_size, 4096);
  EXPECT_EQ(config.intermediate_size, 16384);
  nn::ModelLayout layout;
  Mpt model(config);
  model.add_embedding(layout);
  model.add_decoder(layout);
  EXPECT_EQ(layout.total_elements(), 6649286656);  // 50432 d + 32 (12 d^2 + 2 d) + d, d = 4096
}

TEST(MptConfig, NamesAKeyThatIsWrong) {
  auto json = config_json();
  json["n_heads"] = 5;
  EXPECT_THROW(MptConfig::from_json(json), RequestError);
  json = config_json();
  json["attn_config"] = {{"qk_ln", true}};
  try {
    MptConfig::from_json(json);
    ADD_FAILURE() << "accepted";
  } catch (const RequestError& error) {
    EXPECT_NE(std::string(error.what()).find("qk_ln"), std::string::npos);
  }
}

}  // namespace
}  // namespace tessera::models
