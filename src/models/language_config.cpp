#include "tessera/models/language_config.hpp"

#include <array>

#include "json_fields.hpp"

namespace tessera::models {
namespace {

struct Named {
  std::string_view model_type;
  std::string_view part_of_architecture;
};
constexpr std::array kMpt{Named{"mpt", "Mpt"}, Named{"llava_mpt", "MPT"}};
constexpr std::array kQwen2{Named{"qwen2", "Qwen2"}, Named{"llava_qwen2", "Qwen2"}, Named{"llava_qwen", "Qwen"}};
constexpr std::array kMistral{Named{"mistral", "Mistral"}, Named{"llava_mistral", "Mistral"}};
constexpr std::array kLlama{Named{"llama", "Llama"}, Named{"llava", "LISA"}, Named{"llava_llama", "Llama"}};

/// model_type decides; where it says only "llava", the class named in `architectures` does.
template <std::size_t N>
bool belongs(const std::array<Named, N>& family, const std::string& type, const std::string& architecture) {
  for (const Named& named : family) {
    if (type == "llava" ? architecture.find(named.part_of_architecture) != std::string::npos
                        : type == named.model_type) {
      return true;
    }
  }
  return false;
}

std::string first_architecture(const JsonFields& fields) {
  if (!fields.has("architectures")) return "";
  const auto& list = fields.json().at("architectures");
  return list.is_array() && !list.empty() && list.front().is_string() ? list.front().get<std::string>() : "";
}

}  // namespace

std::int64_t LanguageConfig::vocab_size() const {
  return std::visit([](const auto& config) { return config.vocab_size; }, family);
}
std::int64_t LanguageConfig::hidden_size() const {
  return std::visit([](const auto& config) { return config.hidden_size; }, family);
}
void LanguageConfig::set_vocab_size(std::int64_t size) {
  std::visit([size](auto& config) { config.vocab_size = size; }, family);
}
bool LanguageConfig::tied() const {
  return std::visit([](const auto& config) { return config.tie_word_embeddings; }, family);
}
std::string LanguageConfig::base() const {
  return std::holds_alternative<MptConfig>(family) ? "transformer" : "model";
}
std::string LanguageConfig::embedding_name() const {
  return std::holds_alternative<MptConfig>(family) ? "transformer.wte" : "model.embed_tokens";
}

void LanguageConfig::fit_to_weights(const io::TensorSource& files) {
  auto* mpt = std::get_if<MptConfig>(&family);
  if (mpt == nullptr) return;
  for (const io::TensorInfo& tensor : files.tensors()) {
    const std::string& name = tensor.name;
    const bool block = name.find("blocks.") != std::string::npos && name.find("visual_model.") == std::string::npos;
    if (block && name.ends_with("blocks.0.ffn.up_proj.weight") && tensor.shape.size() == 2)
      mpt->intermediate_size = tensor.shape.front();
    const bool foreign = block && (name.ends_with(".bias") || name.find("_ln.") != std::string::npos);
    if (foreign || name.find("transformer.wpe.") != std::string::npos) {
      throw RequestError("{}: '{}' is a part of MPT that is not supported: biases, learned positions and qk_ln are not",
                         files.where(tensor), name);
    }
  }
}

LanguageConfig LanguageConfig::from_json(const nlohmann::json& json, const std::string& where, bool class_defaults) {
  using Family = LlamaConfig::Family;
  const JsonFields fields(json, where);
  const std::string type = fields.text("model_type", "llama");
  const std::string architecture = first_architecture(fields);
  const auto llama = [&](Family kind) {
    return LanguageConfig{LlamaConfig::from_json(json, kind, where, class_defaults)};
  };
  if (belongs(kMpt, type, architecture)) return {MptConfig::from_json(json, where, class_defaults)};
  if (belongs(kQwen2, type, architecture)) return llama(Family::qwen2);
  if (belongs(kMistral, type, architecture)) return llama(Family::mistral);
  if (type == "llava" || belongs(kLlama, type, architecture)) return llama(Family::llama);
  throw RequestError("{}: model_type '{}' is no supported language model; supported are llama, mistral, qwen2, mpt",
                     where, type);
}

std::unique_ptr<LanguageModel> make_language_model(const LanguageConfig& config) {
  if (const auto* mpt = std::get_if<MptConfig>(&config.family)) return std::make_unique<Mpt>(*mpt);
  return std::make_unique<Llama>(std::get<LlamaConfig>(config.family));
}

}  // namespace tessera::models
