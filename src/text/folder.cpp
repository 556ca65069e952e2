#include "text/folder.hpp"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"
#include "text/json_file.hpp"

namespace tessera::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// No published vocabulary comes near; a larger id would make an embedding of absurd size.
constexpr std::int64_t kMaxId = std::int64_t{1} << 26;

std::int64_t checked_id(const json& value, const std::string& what, const fs::path& file) {
  if (!value.is_number_integer() || value.get<std::int64_t>() < 0 || value.get<std::int64_t>() > kMaxId) {
    throw RequestError("text: '{}': {} has id {}, which is none", file.string(), what, value.dump());
  }
  return value.get<std::int64_t>();
}

bool flag(const json& object, const char* key, bool fallback, const fs::path& file) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return fallback;
  if (!it->is_boolean()) throw RequestError("text: '{}': '{}' must be true or false", file.string(), key);
  return it->get<bool>();
}

std::optional<bool> optional_flag(const json& object, const char* key, const fs::path& file) {
  if (!object.contains(key) || object.at(key).is_null()) return std::nullopt;
  return flag(object, key, false, file);
}

DeclaredToken parse_token(const json& value, const std::string& what, const fs::path& file) {
  DeclaredToken declared;
  if (value.is_string()) {
    declared.token.content = value.get<std::string>();
  } else if (value.is_object() && value.contains("content") && value.at("content").is_string()) {
    declared.flagged = true;
    declared.token.content = value.at("content").get<std::string>();
    declared.token.lstrip = flag(value, "lstrip", false, file);
    declared.token.rstrip = flag(value, "rstrip", false, file);
    declared.token.single_word = flag(value, "single_word", false, file);
    declared.token.special = flag(value, "special", false, file);
    declared.token.normalized = flag(value, "normalized", !declared.token.special, file);
  } else {
    throw RequestError("text: '{}': {} is neither a string nor an object with \"content\"", file.string(), what);
  }
  return declared;
}

SpecialTokens parse_special_tokens(const json& object, const fs::path& file) {
  SpecialTokens special;
  for (std::size_t role = 0; role < kRoles; ++role) {
    const auto it = object.find(kRoleNames[role]);
    if (it == object.end()) continue;
    special.named[role] = true;
    if (!it->is_null()) special.roles[role] = parse_token(*it, kRoleNames[role], file);
  }
  if (const auto it = object.find("additional_special_tokens"); it != object.end() && !it->is_null()) {
    if (!it->is_array()) throw RequestError("text: '{}': additional_special_tokens is no list", file.string());
    special.additional.emplace();
    for (const json& value : *it)
      special.additional->push_back(parse_token(value, "an additional special token", file));
  }
  return special;
}

json read_object(const fs::path& file) {
  json object = read_json(file);
  if (!object.is_object()) throw RequestError("text: '{}' is not a JSON object", file.string());
  return object;
}

std::string without_fast(std::string name) {
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  return name;
}

void read_tokenizer_config(const fs::path& file, Folder& folder) {
  const json config = read_object(file);
  if (const auto it = config.find("tokenizer_class"); it != config.end() && it->is_string()) {
    folder.tokenizer_class = without_fast(it->get<std::string>());
  }
  folder.legacy = optional_flag(config, "legacy", file);
  folder.add_bos = optional_flag(config, "add_bos_token", file);
  folder.add_eos = optional_flag(config, "add_eos_token", file);
  folder.clean_up = optional_flag(config, "clean_up_tokenization_spaces", file);
  folder.add_prefix_space = optional_flag(config, "add_prefix_space", file);
  folder.config = parse_special_tokens(config, file);
  const auto decoder = config.find("added_tokens_decoder");
  if (decoder == config.end() || decoder->is_null()) return;
  if (!decoder->is_object()) throw RequestError("text: '{}': added_tokens_decoder is no object", file.string());
  folder.added_decoder.emplace();
  for (const auto& [key, value] : decoder->items()) {
    std::int64_t id = -1;
    const auto [end, code] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (code != std::errc() || end != key.data() + key.size() || id < 0 || id > kMaxId) {
      throw RequestError("text: '{}': added_tokens_decoder has the key '{}', which is no id", file.string(), key);
    }
    AddedToken token = parse_token(value, "added token " + key, file).token;
    token.id = id;
    (*folder.added_decoder)[id] = std::move(token);
  }
}

void read_added_tokens(const fs::path& file, Folder& folder) {
  const json added = read_object(file);
  for (const auto& [content, id] : added.items()) {
    folder.added_tokens.emplace_back(content, checked_id(id, "'" + content + "'", file));
  }
  std::sort(folder.added_tokens.begin(), folder.added_tokens.end(),
            [](const auto& a, const auto& b) { return a.second < b.second; });
  for (std::size_t i = 1; i < folder.added_tokens.size(); ++i) {
    if (folder.added_tokens[i].second == folder.added_tokens[i - 1].second) {
      throw RequestError("text: '{}': '{}' and '{}' have the same id {}", file.string(),
                         folder.added_tokens[i - 1].first, folder.added_tokens[i].first, folder.added_tokens[i].second);
    }
  }
}

/// model_type of config.json where no tokenizer_config.json names a class.
void guess_class(const fs::path& file, Folder& folder) {
  const json config = read_object(file);
  const auto it = config.find("model_type");
  if (it == config.end() || !it->is_string()) return;
  const std::string type = it->get<std::string>();
  if (type.find("qwen2") != std::string::npos || type == "fast_vlm") folder.tokenizer_class = "Qwen2Tokenizer";
  if (type.find("llama") != std::string::npos || type == "llava") folder.tokenizer_class = "LlamaTokenizer";
  if (type.find("mpt") != std::string::npos || type == "gpt_neox") folder.tokenizer_class = "GPTNeoXTokenizer";
  if (type == "gpt2") folder.tokenizer_class = "GPT2Tokenizer";
}

void find_model(Folder& folder) {
  const fs::path& dir = folder.path;
  const auto has = [](const fs::path& file) { return fs::is_regular_file(file); };
  if (has(dir / "tokenizer.json")) folder.tokenizer_json = dir / "tokenizer.json";
  if (has(dir / "tokenizer.model")) {
    folder.kind = Kind::sentencepiece;
    folder.model_file = dir / "tokenizer.model";
  } else if (has(dir / "vocab.json") && has(dir / "merges.txt")) {
    folder.kind = Kind::vocab_and_merges;
    folder.model_file = dir / "vocab.json";
    folder.merges_file = dir / "merges.txt";
  } else if (!folder.tokenizer_json.empty()) {
    folder.kind = Kind::tokenizer_json;
    folder.model_file = folder.tokenizer_json;
  } else {
    throw RequestError(
        "text: '{}' has no tokenizer: neither tokenizer.model, nor vocab.json with merges.txt, nor "
        "tokenizer.json",
        dir.string());
  }
}

/// Classes that LLaVA loads in their slow form; any other is read from its tokenizer.json.
bool has_slow_class(const Folder& folder) {
  return folder.tokenizer_class == "Qwen2Tokenizer" || folder.tokenizer_class == "GPT2Tokenizer";
}

}  // namespace

Folder read_folder(const fs::path& path) {
  Folder folder;
  folder.path = path;
  std::error_code code;
  if (fs::is_regular_file(path, code)) {
    folder.model_file = path;
    folder.kind = path.extension() == ".json" ? Kind::tokenizer_json : Kind::sentencepiece;
    if (folder.kind == Kind::tokenizer_json) folder.tokenizer_json = path;
    return folder;
  }
  if (!fs::is_directory(path, code)) throw RequestError("text: no tokenizer at '{}': no such folder", path.string());
  find_model(folder);
  if (const fs::path file = path / "tokenizer_config.json"; fs::exists(file)) read_tokenizer_config(file, folder);
  if (const fs::path file = path / "special_tokens_map.json"; fs::exists(file)) {
    folder.map = parse_special_tokens(read_object(file), file);
  }
  if (const fs::path file = path / "added_tokens.json"; fs::exists(file)) read_added_tokens(file, folder);
  if (const fs::path file = path / "config.json"; folder.tokenizer_class.empty() && fs::exists(file)) {
    guess_class(file, folder);
  }
  if (folder.kind == Kind::vocab_and_merges && !folder.tokenizer_json.empty() && !has_slow_class(folder)) {
    folder.kind = Kind::tokenizer_json;
    folder.model_file = folder.tokenizer_json;
  }
  if (folder.kind != Kind::tokenizer_json && !folder.tokenizer_json.empty() && !folder.added_decoder) {
    folder.json_added = parse_json_added(read_object(folder.tokenizer_json), folder.tokenizer_json);
  }
  return folder;
}

std::vector<AddedToken> parse_json_added(const json& tokenizer_json, const fs::path& file) {
  std::vector<AddedToken> tokens;
  const auto it = tokenizer_json.find("added_tokens");
  if (it == tokenizer_json.end() || it->is_null()) return tokens;
  if (!it->is_array()) throw RequestError("text: '{}': added_tokens is no list", file.string());
  for (const json& value : *it) {
    AddedToken token = parse_token(value, "an added token", file).token;
    if (!value.is_object() || !value.contains("id")) {
      throw RequestError("text: '{}': the added token '{}' has no id", file.string(), token.content);
    }
    token.id = checked_id(value.at("id"), "'" + token.content + "'", file);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

Release choose_release(const Folder& folder, const TokenizerRules& rules) {
  if (rules.release) return *rules.release;
  constexpr std::string_view kSeg = "[SEG]";
  bool brings = std::any_of(rules.add.begin(), rules.add.end(), [&](const AddedToken& t) { return t.content == kSeg; });
  for (const auto& [content, id] : folder.added_tokens) brings = brings || content == kSeg;
  if (folder.added_decoder) {
    for (const auto& [id, token] : *folder.added_decoder) brings = brings || token.content == kSeg;
  }
  for (const AddedToken& token : folder.json_added) brings = brings || token.content == kSeg;
  return brings ? Release::transformers_4_31 : Release::transformers_4_37;
}

}  // namespace tessera::text
