#include "tessera/adapt/tied_head.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>

#include "tessera/adapt/peft_config.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"

namespace tessera::adapt {

namespace {

// Where a language model begins and ends.
constexpr std::string_view kEmbedding = "embed_tokens", kHead = "lm_head";
constexpr std::array<std::string_view, 3> kEnds = {kEmbedding, "wte", kHead};
constexpr const char* kTied = "tie_word_embeddings";

bool parts(const std::filesystem::path& folder) {
  const JsonView json = read_json(folder / "adapter_config.json");
  const auto saved = json.has("modules_to_save") ? json.at("modules_to_save").texts() : std::vector<std::string>();
  if (parts_head(saved, json.boolean("ensure_weight_tying", false))) return true;
  const io::SourcePtr files = io::open_weights(folder);
  const bool adapted = std::any_of(files->tensors().begin(), files->tensors().end(), [](const io::TensorInfo& tensor) {
    const std::string name = param_name_of_peft(tensor.name);
    return is_vocabulary(name.substr(0, std::min(name.find(".lora_"), name.size())));
  });
  // PEFT takes what such an adapter begins with out of the one weight that both are, and so out of the embedding too.
  if (adapted && lora_config_from_json(json).starts_in_base())
    throw RequestError("{}: {} on a head that is its embedding is not supported", json.where(),
                       json.at("init_lora_weights").raw().dump());
  return adapted;
}

// A LLaVA in transformers' form keeps its language model's settings apart.
template <class Json>
Json& language_settings(Json& config) {
  const auto text = config.find("text_config");
  return text != config.end() && text->is_object() ? *text : config;
}

}  // namespace

bool is_vocabulary(const std::string& layer) {
  return std::any_of(kEnds.begin(), kEnds.end(), [&](std::string_view end) {
    return layer.ends_with(end) && (layer.size() == end.size() || layer[layer.size() - end.size() - 1] == '.');
  });
}

bool parts_head(const std::vector<std::string>& modules_to_save, bool keep_one) {
  const auto named = [&](std::string_view name) {
    return std::find(modules_to_save.begin(), modules_to_save.end(), name) != modules_to_save.end();
  };
  if (keep_one && named(kHead) && !named(kEmbedding)) {
    throw RequestError(
        "ensure_weight_tying with lm_head in modules_to_save and without embed_tokens is nothing that PEFT can load; "
        "name embed_tokens alone");
  }
  if (keep_one && named(kEmbedding) && !named(kHead)) return false;
  // PEFT takes a module whose name ends in one of these, at a dot or not.
  return std::any_of(modules_to_save.begin(), modules_to_save.end(), [](const std::string& module) {
    return std::any_of(kEnds.begin(), kEnds.end(),
                       [&](std::string_view end) { return module.ends_with(end) || end.ends_with(module); });
  });
}

bool parts_head(const std::vector<std::filesystem::path>& adapters) {
  return std::any_of(adapters.begin(), adapters.end(), parts);
}

io::SourcePtr with_own_head(const io::SourcePtr& files) {
  struct Names {
    std::string_view embedding, head;
  };
  constexpr std::array<Names, 6> kNames{{
      {"model.embed_tokens.weight", "lm_head.weight"},
      {"language_model.model.embed_tokens.weight", "language_model.lm_head.weight"},
      {"model.language_model.embed_tokens.weight", "lm_head.weight"},
      {"transformer.wte.weight", "lm_head.weight"},
      {"language_model.transformer.wte.weight", "language_model.lm_head.weight"},
      {"model.language_model.wte.weight", "lm_head.weight"},
  }};
  for (const Names& names : kNames) {
    if (files->find(std::string(names.embedding)) == nullptr) continue;
    const auto head = std::make_shared<io::RenamedSource>(files, [&](std::string_view name) {
      return name == names.embedding ? std::optional<std::string>(names.head) : std::nullopt;
    });
    return std::make_shared<io::OverlaySource>(std::vector<io::SourcePtr>{head, files});
  }
  throw RequestError(
      "an adapter on the embedding or the head, which are one in this model, and none of its weights has an "
      "embedding's name");
}

bool is_tied(const nlohmann::json& config) {
  const nlohmann::json& language = language_settings(config);
  const auto found = language.find(kTied);
  if (found != language.end() && found->is_boolean()) return found->get<bool>();
  const auto type = language.find("model_type");
  return type != language.end() && type->is_string() && type->get<std::string>().ends_with("mpt");
}

void say_untied(nlohmann::json& config) {
  language_settings(config)[kTied] = false;
  config[kTied] = false;
}

}  // namespace tessera::adapt
