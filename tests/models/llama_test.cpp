#include "tessera/models/llama.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <nlohmann/json.hpp>

#include "nn/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

using testing_support::distance;

at::Tensor ids(const std::vector<std::int64_t>& values) {
  return at::tensor(values, at::kLong);
}

LlamaConfig small() {
  LlamaConfig config;
  config.vocab_size = 19;
  config.hidden_size = 12;
  config.intermediate_size = 20;
  config.layers = 2;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 6;
  config.rope.dim = 6;
  config.initializer_range = 0.3;
  return config;
}

struct Fixture {
  nn::ModelLayout layout;
  Llama llama{small()};
  nn::LocalRunner runner;
  Fixture() {
    llama.add_embedding(layout);
    llama.add_decoder(layout);
    nn::materialize(layout, 1);
  }
  at::Tensor hidden(const at::Tensor& rows) {
    return llama.decode(llama.embed(rows, runner), at::ones(rows.sizes(), at::kBool), runner, {});
  }
};

TEST(Llama, ALaterTokenDoesNotChangeAnEarlierPosition) {
  Fixture f;
  const at::Tensor a = f.hidden(ids({3, 7, 1, 9, 2}).view({1, 5}));
  const at::Tensor b = f.hidden(ids({3, 7, 1, 9, 5}).view({1, 5}));
  EXPECT_LT(distance(a.narrow(1, 0, 4), b.narrow(1, 0, 4)), 1e-5);
  EXPECT_GT(distance(a, b), 1e-2);
}

TEST(Llama, PaddingOnTheRightDoesNotChangeARow) {
  Fixture f;
  const at::Tensor row = ids({3, 7, 1}).view({1, 3});
  const at::Tensor padded = ids({3, 7, 1, 0, 0}).view({1, 5});
  at::Tensor mask = at::ones({1, 5}, at::kBool);
  mask.narrow(1, 3, 2).fill_(false);
  const at::Tensor long_row = f.llama.decode(f.llama.embed(padded, f.runner), mask, f.runner, {});
  EXPECT_LT(distance(long_row.narrow(1, 0, 3), f.hidden(row)), 1e-5);
}

TEST(Llama, TheRowsAskedForAreThoseOfAll) {
  Fixture f;
  const at::Tensor rows = ids({3, 7, 1, 9, 2, 4, 5, 8}).view({2, 4});
  for (const bool left : {false, true}) {
    at::Tensor mask = at::ones({2, 4}, at::kBool);
    mask.select(0, 1).narrow(0, left ? 0 : 2, 2).fill_(false);
    const at::Tensor all = f.llama.decode(f.llama.embed(rows, f.runner), mask, f.runner, {}).view({8, -1});
    DecodeOptions options;
    for (const auto& wanted : {ids({2, 0, 2, left ? 7 : 5}), ids({})}) {
      options.rows = wanted;
      const at::Tensor some = f.llama.decode(f.llama.embed(rows, f.runner), mask, f.runner, {}, options);
      EXPECT_EQ(some.size(0), wanted.size(0));
      EXPECT_LT(distance(some, all.index_select(0, wanted)), 1e-5) << left;
    }
  }
}

TEST(Llama, ARecomputedLayerHasTheGradientsOfTheLayer) {
  Fixture f;
  const LlamaLayer layer(nn::Scope(f.layout, f.layout.add_unit("extra"), "extra"), small(), 0);
  for (const auto& p : f.layout.params()) {
    p->trainable = true;
    p->bind(at::randn(p->shape).set_requires_grad(true));
  }
  LlamaPass pass;
  pass.rope = nn::rope_tables(small().rope, 4, {});
  pass.mask.causal = true;
  const at::Tensor x = at::randn({2, 4, 12}), g = at::randn({3, 12}), rows = ids({6, 1, 3});
  std::vector<at::Tensor> grads[2];
  for (const bool value : {true, false}) {
    at::Tensor in = x.clone().set_requires_grad(true);
    torch::autograd::backward({layer(in, pass, {}, {rows, value})}, {g});
    grads[value ? 1 : 0].push_back(in.grad());
    for (const auto& p : f.layout.params()) {
      if (!p->name.starts_with("extra")) continue;
      grads[value ? 1 : 0].push_back(p->value().grad());
      p->value().mutable_grad() = at::Tensor();
    }
  }
  ASSERT_EQ(grads[0].size(), 10U);
  for (std::size_t i = 0; i < grads[0].size(); ++i) EXPECT_EQ(distance(grads[0][i], grads[1][i]), 0) << i;
}

TEST(Llama, RefusesIdsOutsideTheVocabulary) {
  Fixture f;
  EXPECT_THROW(f.llama.embed(ids({1, 19}).view({1, 2}), f.runner), RequestError);
  EXPECT_THROW(f.llama.embed(ids({-200, 3}).view({1, 2}), f.runner), RequestError);
}

TEST(Llama, ATiedHeadAddsNoWeight) {
  nn::ModelLayout plain, tied;
  LlamaConfig config = small();
  Llama a(config);
  a.add_embedding(plain);
  a.add_decoder(plain);
  config.tie_word_embeddings = true;
  Llama b(config);
  b.add_embedding(tied);
  b.add_decoder(tied);
  EXPECT_EQ(plain.total_elements() - tied.total_elements(), 19 * 12);
  EXPECT_EQ(tied.find("lm_head.weight"), nullptr);
  const nn::Unit& head = tied.unit(b.head_unit());
  EXPECT_EQ(head.borrows, std::vector<nn::UnitId>{0}) << "the runner gathers the embedding with it";
}

TEST(Llama, EmbeddingAndHeadAreNotWorthRecomputing) {
  const Fixture f;
  const auto& units = f.layout.units();
  ASSERT_EQ(units.size(), 4U);
  EXPECT_TRUE(units.front().light && units.back().light);
  EXPECT_FALSE(units[1].light || units[2].light);
  EXPECT_FALSE(units.front().backward_reads_weights);
  EXPECT_TRUE(units.back().backward_reads_weights);
}

TEST(Llama, ItsHeadsLossIsTheCrossEntropyOfItsLogits) {
  const Fixture f;
  const at::Tensor normed = at::randn({3, 12}), targets = ids({18, 0, 4});
  EXPECT_LT(distance(f.llama.head_loss(normed, targets, {}), cross_entropy_sum(f.llama.head(normed, {}), targets)),
            1e-5);
}

nlohmann::json config_json() {
  return nlohmann::json::parse(R"({"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 4, "rms_norm_eps": 1e-5})");
}

TEST(LlamaConfig, ReadsBothGenerationsOfRope) {
  auto json = config_json();
  json["rope_theta"] = 5000.0;
  EXPECT_DOUBLE_EQ(LlamaConfig::from_json(json).rope.theta, 5000.0);
  json = config_json();
  json["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 700.0}};
  const LlamaConfig config = LlamaConfig::from_json(json);
  EXPECT_DOUBLE_EQ(config.rope.theta, 700.0);
  EXPECT_EQ(config.rope.scaling, nn::RopeConfig::Scaling::linear);
  EXPECT_EQ(config.kv_heads, 4);
}

TEST(LlamaConfig, NamesAKeyThatIsWrong) {
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, nlohmann::json>>{
           {"hidden_size", "wide"}, {"num_attention_heads", 0}, {"num_key_value_heads", 3}}) {
    auto json = config_json();
    json[key] = value;
    try {
      LlamaConfig::from_json(json);
      ADD_FAILURE() << key << " was accepted";
    } catch (const RequestError& error) {
      EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
    }
  }
}

TEST(LlamaConfig, NamesARopeTypeItDoesNotKnowAndThoseItKnows) {
  const auto error_of = [](const char* key, const nlohmann::json& scaling) -> std::string {
    auto json = config_json();
    json[key] = scaling;
    try {
      LlamaConfig::from_json(json);
    } catch (const RequestError& error) {
      return error.what();
    }
    return "accepted";
  };
  const std::string known = " is not supported; supported are default, dynamic, linear, llama3";
  EXPECT_EQ(error_of("rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}}),
            "config.json: rope_scaling: rope_type 'yarn'" + known);
  EXPECT_EQ(error_of("rope_parameters", {{"rope_type", "longrope"}}),
            "config.json: rope_parameters: rope_type 'longrope'" + known);
  EXPECT_EQ(error_of("rope_scaling", {{"type", "su"}}), "config.json: rope_scaling: type 'su'" + known);
  EXPECT_EQ(error_of("rope_scaling", {{"rope_type", 3}}),
            "config.json: rope_scaling: 'rope_type' is 3, expected a string");
}

}  // namespace
}  // namespace tessera::models
