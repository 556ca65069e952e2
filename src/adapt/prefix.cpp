#include "tessera/adapt/prefix.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tanh.h>

#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/nn/prefix.hpp"

namespace tessera::adapt {
namespace {

/// Columns [begin, begin+count) of the product [P, 2*L*H*d].
at::Tensor columns(const Prefix& prefix, std::int64_t begin, std::int64_t count) {
  const at::Tensor& embedding = prefix.embedding->value();
  if (!prefix.inner) return embedding.narrow(1, begin, count);
  const at::Tensor inner = at::tanh(at::linear(embedding, prefix.inner->value(), prefix.inner_bias->value()));
  return at::linear(inner, prefix.outer->value().narrow(0, begin, count),
                    prefix.outer_bias->value().narrow(0, begin, count));
}

class LayerPrefix final : public nn::AttentionPrefix {
 public:
  LayerPrefix(const Prefix& prefix, std::int64_t layer) : prefix_(prefix), layer_(layer) {}
  std::int64_t length() const override { return prefix_.config.num_virtual_tokens; }
  std::pair<at::Tensor, at::Tensor> keys_and_values() const override {
    const std::int64_t both = 2 * prefix_.width();
    const at::Tensor own = columns(prefix_, layer_ * both, both)
                               .reshape({length(), 2, prefix_.kv_heads, prefix_.head_dim})
                               .permute({1, 2, 0, 3});
    return {own.select(0, 0), own.select(0, 1)};
  }

 private:
  Prefix prefix_;
  std::int64_t layer_;
};

void add_parameters(nn::ModelLayout& layout, Prefix& prefix) {
  const std::int64_t total = 2 * prefix.layers * prefix.width();
  const auto add = [&](const char* what, std::vector<std::int64_t> shape, nn::Init init) {
    nn::Param param = layout.add(prefix.unit, std::string("prompt_encoder.default.") + what, std::move(shape), init);
    param->trainable = true;
    return param;
  };
  const std::int64_t tokens = prefix.config.num_virtual_tokens;
  if (!prefix.config.prefix_projection) {
    prefix.embedding = add("embedding.weight", {tokens, total}, nn::Init::normal(1.0));
    return;
  }
  const std::int64_t width = prefix.width();
  const std::int64_t hidden = prefix.config.encoder_hidden_size;
  prefix.embedding = add("embedding.weight", {tokens, width}, nn::Init::normal(1.0));
  prefix.inner = add("transform.0.weight", {hidden, width}, nn::Init::fan_in(width));
  prefix.inner_bias = add("transform.0.bias", {hidden}, nn::Init::fan_in(width));
  prefix.outer = add("transform.2.weight", {total, hidden}, nn::Init::fan_in(hidden));
  prefix.outer_bias = add("transform.2.bias", {total}, nn::Init::fan_in(hidden));
}

}  // namespace

Prefix attach_prefix(nn::ModelLayout& layout, const PrefixConfig& config) {
  const auto& attentions = layout.attentions();
  if (attentions.empty()) throw RequestError("prefix: the model has no language model to put a prefix on");
  if (config.num_virtual_tokens < 1)
    throw RequestError("prefix: num_virtual_tokens {} is below 1", config.num_virtual_tokens);
  if (config.encoder_hidden_size < 0 || (config.encoder_hidden_size > 0 && !config.prefix_projection))
    throw RequestError("prefix: encoder_hidden_size {} needs prefix_projection and a size above 0",
                       config.encoder_hidden_size);
  for (const auto& layer : attentions) {
    if (layer->prefix) throw RequestError("prefix: layer '{}' has a prefix already", layer->name);
    if (layer->kv_heads != attentions.front()->kv_heads || layer->head_dim != attentions.front()->head_dim)
      throw RequestError("prefix: layer '{}' has other heads than '{}'", layer->name, attentions.front()->name);
  }
  Prefix prefix;
  prefix.config = config;
  prefix.layers = static_cast<std::int64_t>(attentions.size());
  prefix.kv_heads = attentions.front()->kv_heads;
  prefix.head_dim = attentions.front()->head_dim;
  if (config.prefix_projection && config.encoder_hidden_size == 0) prefix.config.encoder_hidden_size = prefix.width();
  prefix.unit = layout.add_unit("prefix", true);
  add_parameters(layout, prefix);
  for (std::size_t i = 0; i < attentions.size(); ++i) {
    nn::AttentionState& layer = *attentions[i];
    layer.prefix = std::make_shared<LayerPrefix>(prefix, static_cast<std::int64_t>(i));
    layout.mark_adapted(layer.unit);
  }
  return prefix;
}

at::Tensor prompt_embeddings(const Prefix& prefix) {
  const at::NoGradGuard no_grad;
  return columns(prefix, 0, 2 * prefix.layers * prefix.width());
}

std::string prefix_config_json(const Prefix& prefix, const std::string& base_model) {
  const nlohmann::json json = {
      {"peft_type", "PREFIX_TUNING"},
      {"task_type", "CAUSAL_LM"},
      {"base_model_name_or_path", base_model},
      {"inference_mode", true},
      {"num_virtual_tokens", prefix.config.num_virtual_tokens},
      {"num_transformer_submodules", 1},
      {"num_attention_heads", prefix.kv_heads},
      {"num_layers", prefix.layers},
      {"token_dim", prefix.width()},
      {"prefix_projection", prefix.config.prefix_projection},
      {"encoder_hidden_size", prefix.config.prefix_projection ? prefix.config.encoder_hidden_size : prefix.width()}};
  return json.dump(2) + "\n";
}

std::string peft_type(const std::filesystem::path& folder) {
  return read_json(folder / "adapter_config.json").text("peft_type", "");
}

PrefixFolder open_prefix_folder(const std::filesystem::path& folder) {
  const JsonView json = read_json(folder / "adapter_config.json");
  if (json.text("peft_type", "") != "PREFIX_TUNING")
    throw RequestError("{}: peft_type is '{}', PREFIX_TUNING is expected", json.where(), json.text("peft_type", ""));
  if (json.integer("num_transformer_submodules", 1) != 1)
    throw RequestError("{}: a prefix for an encoder and a decoder is not supported", json.where());
  PrefixFolder out;
  out.config.num_virtual_tokens = json.integer("num_virtual_tokens");
  const io::SourcePtr files = io::open_weights(folder);
  for (const io::TensorInfo& tensor : files->tensors()) {
    if (tensor.name != kPromptEmbeddings)
      throw RequestError("{}: '{}' is no part of a prefix", folder.string(), tensor.name);
    if (tensor.shape.size() != 2 || tensor.shape[0] != out.config.num_virtual_tokens) {
      throw RequestError("{}: prompt_embeddings is {}, adapter_config.json says {} virtual tokens", folder.string(),
                         io::shape_text(tensor.shape), out.config.num_virtual_tokens);
    }
  }
  if (files->find(kPromptEmbeddings) == nullptr)
    throw RequestError("{}: the adapter has no prompt_embeddings", folder.string());
  out.weights = std::make_shared<io::RenamedSource>(
      files, [](std::string_view) { return std::optional<std::string>("prompt_encoder.default.embedding.weight"); });
  return out;
}

void check_fits(const PrefixFolder& folder, const Prefix& prefix, const std::filesystem::path& path) {
  const auto& shape = folder.weights->tensors().front().shape;
  if (shape == prefix.embedding->shape) return;
  throw RequestError("{}: prompt_embeddings is {}, this model takes {}: {} layers with {} key-value heads of {}",
                     path.string(), io::shape_text(shape), io::shape_text(prefix.embedding->shape), prefix.layers,
                     prefix.kv_heads, prefix.head_dim);
}

}  // namespace tessera::adapt
