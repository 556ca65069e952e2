#include "tessera/adapt/prefix.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "models/golden.hpp"
#include "nn/support.hpp"
#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/nn/prefix.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::adapt {
namespace {

using testing_support::distance;
using testing_support::golden_model;
using testing_support::message_of;

/// Two layers with three key-value heads of four.
struct TwoAttentions {
  nn::ModelLayout layout;
  TwoAttentions() {
    for (const char* name : {"layers.0", "layers.1"}) {
      nn::note_attention(nn::Scope(layout, layout.add_unit(name), name), "self_attn", 3, 4);
    }
  }
};

TEST(Prefix, GivesEveryLayerItsKeysThenItsValues) {
  TwoAttentions m;
  const Prefix prefix = attach_prefix(m.layout, {.num_virtual_tokens = 5});
  EXPECT_TRUE(m.layout.unit(prefix.unit).fused);
  EXPECT_TRUE(m.layout.units()[0].adapted && m.layout.units()[1].adapted);
  EXPECT_EQ(prefix.embedding->shape, (std::vector<std::int64_t>{5, 2 * 2 * 12}));
  nn::materialize(m.layout, 1);
  const at::Tensor table = prompt_embeddings(prefix).view({5, 4, 3, 4});
  for (std::int64_t i = 0; i < 2; ++i) {
    const auto [keys, values] = m.layout.attentions()[static_cast<std::size_t>(i)]->prefix->keys_and_values();
    EXPECT_TRUE(keys.equal(table.select(1, 2 * i).transpose(0, 1)));
    EXPECT_TRUE(values.equal(table.select(1, 2 * i + 1).transpose(0, 1)));
  }
}

TEST(Prefix, WithAProjectionTheProductIsWhatLayersSee) {
  TwoAttentions m;
  const Prefix prefix = attach_prefix(m.layout, {2, true, 7});
  EXPECT_EQ(prefix.embedding->shape, (std::vector<std::int64_t>{2, 12}));
  nn::materialize(m.layout, 1);
  const at::Tensor inner =
      at::tanh(at::linear(prefix.embedding->value(), prefix.inner->value(), prefix.inner_bias->value()));
  const at::Tensor product = at::linear(inner, prefix.outer->value(), prefix.outer_bias->value());
  EXPECT_LT(distance(prompt_embeddings(prefix), product), 1e-6);
  const auto [keys, values] = m.layout.attentions()[1]->prefix->keys_and_values();
  EXPECT_LT(distance(keys, product.view({2, 4, 3, 4}).select(1, 2).transpose(0, 1)), 1e-6);
  TwoAttentions as_wide;
  EXPECT_EQ(attach_prefix(as_wide.layout, {2, true, 0}).inner->shape, (std::vector<std::int64_t>{12, 12}));
}

TEST(Prefix, RefusesWhatCannotBe) {
  const auto refused = [](nn::ModelLayout& layout, const PrefixConfig& config) {
    return message_of<RequestError>([&] { attach_prefix(layout, config); });
  };
  nn::ModelLayout empty;
  EXPECT_NE(refused(empty, {}).find("no language model"), std::string::npos);
  TwoAttentions m;
  EXPECT_NE(refused(m.layout, {.num_virtual_tokens = 0}).find("num_virtual_tokens 0"), std::string::npos);
  EXPECT_NE(refused(m.layout, {2, false, 7}).find("prefix_projection"), std::string::npos);
  attach_prefix(m.layout, {});
  EXPECT_NE(refused(m.layout, {}).find("'layers.0.self_attn' has a prefix already"), std::string::npos);
}

TEST(Prefix, ItsConfigurationIsPefts) {
  TwoAttentions m;
  const auto json = nlohmann::json::parse(prefix_config_json(attach_prefix(m.layout, {5, true, 7}), "base"));
  EXPECT_EQ(json.at("peft_type"), "PREFIX_TUNING");
  EXPECT_EQ(json.at("token_dim"), 12);
  EXPECT_EQ(json.at("num_attention_heads"), 3);
  EXPECT_EQ(json.at("num_layers"), 2);
  EXPECT_EQ(json.at("encoder_hidden_size"), 7);
  EXPECT_EQ(json.at("prefix_projection"), true);
}

TEST(PrefixFolder, IsReadAndHeldAgainstTheModel) {
  const auto folder = golden_model("prefix_grouped") / "adapter";
  EXPECT_EQ(peft_type(folder), "PREFIX_TUNING");
  const PrefixFolder read = open_prefix_folder(folder);
  EXPECT_EQ(read.config.num_virtual_tokens, 3);
  TwoAttentions m;
  const Prefix other = attach_prefix(m.layout, read.config);
  EXPECT_NE(message_of<RequestError>([&] { check_fits(read, other, folder); }).find("this model takes [3, 48]"),
            std::string::npos);
  EXPECT_THROW(open_prefix_folder(golden_model("lora_query_value") / "adapter"), RequestError);
}

TEST(PrefixFolder, RefusesAFileThatIsNotWhatItsConfigurationSays) {
  const testing_support::TempDir dir;
  const auto write = [&](const char* name, const at::Tensor& tensor) {
    testing_support::write_file(dir / "adapter_config.json",
                                R"({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3})");
    io::write_tensors(dir / "adapter_model.safetensors", {{name, tensor}});
    return message_of<RequestError>([&] { open_prefix_folder(dir.path()); });
  };
  EXPECT_NE(write("prompt_embeddings", at::zeros({4, 8})).find("3 virtual tokens"), std::string::npos);
  EXPECT_NE(write("prompt_embeddings", at::zeros({24})).find("[24]"), std::string::npos);
  EXPECT_NE(write("embedding", at::zeros({3, 8})).find("'embedding' is no part"), std::string::npos);
}

}  // namespace
}  // namespace tessera::adapt
