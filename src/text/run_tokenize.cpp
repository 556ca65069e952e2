#include "tessera/text/run_tokenize.hpp"

#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "text/json_file.hpp"
#include "text/unicode.hpp"

namespace tessera::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

json config_of(const fs::path& folder) {
  const fs::path file = folder / "config.json";
  return fs::is_regular_file(file) ? read_json(file) : json::object();
}

std::optional<std::int64_t> integer(const json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number_integer()) return std::nullopt;
  return it->get<std::int64_t>();
}

std::optional<std::int64_t> patches_of_tower(const fs::path& tower) {
  json config = config_of(tower);
  if (config.contains("vision_config") && config.at("vision_config").is_object()) config = config.at("vision_config");
  const auto image = integer(config, "image_size");
  const auto patch = integer(config, "patch_size");
  if (!image || !patch || *patch < 1 || *image < *patch || *image > 1 << 16) return std::nullopt;
  return (*image / *patch) * (*image / *patch);
}

std::vector<std::string> read_texts(const fs::path& file) {
  const json list = read_json(file);
  if (!list.is_array()) throw RequestError("text: '{}' is not a JSON list of strings", file.string());
  std::vector<std::string> texts;
  for (const json& item : list) {
    if (!item.is_string()) throw RequestError("text: '{}' item {} is no string", file.string(), texts.size());
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

json encode_text(const Tokenizer& tokenizer, const std::string& text, bool image_token) {
  const Encoding encoding = image_token ? encode_with_images(tokenizer, text) : tokenizer.encode(text);
  std::vector<std::int64_t> words = encoding.ids;  // placeholders have no text
  if (image_token) std::erase(words, kImageId);
  return {{"ids", encoding.ids}, {"pieces", encoding.pieces}, {"text", tokenizer.decode(words)}};
}

ConversationOptions options_for(const TokenizeRequest& request, const Tokenizer& tokenizer) {
  ConversationOptions options;
  const bool lisa = tokenizer.id_of(kSegToken).has_value();
  options.recipe = lisa ? Recipe::lisa : Recipe::llava;
  options.max_length = request.max_length.value_or(lisa ? 512 : 2048);
  options.strict_mpt = request.strict_mpt;
  if (!lisa) return options;
  options.image_patches = image_patches_of(request.model);
  const json config = config_of(request.model);
  const auto it = config.find("mm_use_im_start_end");
  const bool uses = it == config.end() || !it->is_boolean() || it->get<bool>();
  options.start_end = uses && tokenizer.id_of(kImStartToken) && tokenizer.id_of(kImEndToken);
  return options;
}

void check_flags(const TokenizeRequest& request) {
  if (request.conversations && request.form.empty()) {
    throw RequestError("text: --conversations needs --template; there are {}", fmt::join(template_names(), ", "));
  }
  if (request.conversations && request.image_token) {
    throw RequestError("text: --image_token is for single texts: in --conversations <image> is -200 by itself");
  }
  if (request.conversations) return;
  for (const auto& [flag, given] :
       {std::pair{"--template", !request.form.empty()}, std::pair{"--max_length", request.max_length.has_value()},
        std::pair{"--strict_mpt", request.strict_mpt}}) {
    if (given) throw RequestError("text: {} is for whole conversations: it needs --conversations", flag);
  }
}

}  // namespace

std::int64_t image_patches_of(const fs::path& model_folder) {
  constexpr std::int64_t kReference = 256;  // CLIP ViT-L/14 at 224 pixels
  const json config = config_of(model_folder);
  for (const char* key : {"mm_vision_tower", "vision_tower"}) {
    const auto it = config.find(key);
    if (it == config.end() || !it->is_string()) continue;
    const std::string name = it->get<std::string>();
    for (const fs::path& tower : {fs::path(name), model_folder / name}) {
      if (const auto patches = patches_of_tower(tower)) return *patches;
    }
    if (name.ends_with("patch14-336")) return 24 * 24;
  }
  return kReference;
}

void run_tokenize(const TokenizeRequest& request) {
  check_flags(request);
  TokenizerRules rules;
  rules.legacy = request.legacy;
  rules.add_bos = request.bos;
  rules.drop_hash_merges = request.drop_hash_merges;
  if (request.strip_added_tokens) {
    rules.release = *request.strip_added_tokens ? Release::transformers_4_31 : Release::transformers_4_37;
  }
  const Tokenizer tokenizer = load_tokenizer(request.model, rules);
  const std::vector<std::string> texts = read_texts(request.inputs);
  json out = json::array();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (!request.conversations) {
      out.push_back(encode_text(tokenizer, texts[i], request.image_token));
      continue;
    }
    ConversationOptions options = options_for(request, tokenizer);
    options.label = fmt::format("'{}' item {}", request.inputs.string(), i);
    options.start_end = options.start_end && texts[i].find(wrap_image_tokens(kImageToken)) == std::string::npos;
    const Encoded encoded = encode_conversation(tokenizer, find_template(request.form), texts[i], options);
    out.push_back({{"input_ids", encoded.input_ids}, {"labels", encoded.labels}});
  }
  write_file(request.outputs, out.dump() + "\n");
}

}  // namespace tessera::text
