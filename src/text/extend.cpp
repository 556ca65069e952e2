#include "tessera/text/extend.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"
#include "text/folder.hpp"
#include "text/json_file.hpp"
#include "text/tokenizer_impl.hpp"

namespace tessera::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Taken over byte for byte.
constexpr const char* kPlainFiles[] = {"tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja",
                                       "chat_template.json"};

/// As transformers writes a token in added_tokens_decoder and, with its id, in tokenizer.json.
json flags_of(const AddedToken& token) {
  return {{"content", token.content}, {"lstrip", token.lstrip},         {"rstrip", token.rstrip},
          {"special", token.special}, {"normalized", token.normalized}, {"single_word", token.single_word}};
}

json read_if_there(const fs::path& file) {
  return fs::exists(file) ? read_json(file) : json::object();
}

std::string text_of(const json& value) {
  return value.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

/// Of a token written as a string or as an object with flags; "" for anything else.
std::string content_of(const json& item) {
  const json* content = &item;
  if (item.is_object()) {
    const auto it = item.find("content");
    if (it == item.end()) return "";
    content = &*it;
  }
  return content->is_string() ? content->get<std::string>() : "";
}

bool holds(const json& list, const std::string& token) {
  return std::any_of(list.begin(), list.end(), [&](const json& item) { return content_of(item) == token; });
}

json& array_at(json& object, const char* key) {
  json& list = object[key];
  if (!list.is_array()) list = json::array();
  return list;
}

class Extension {
 public:
  Extension(const fs::path& folder, const TokenizerAdditions& additions)
      : folder_(read_folder(folder)), additions_(additions) {
    if (!fs::is_directory(folder)) throw RequestError("text: '{}' is no folder", folder.string());
  }

  ExtendedTokenizer run() {
    TokenizerRules rules;
    rules.release = Release::transformers_4_37;  // keeps the flags that are given
    for (const std::string& content : additions_.special) rules.add.push_back({.content = content, .special = true});
    auto impl = make_tokenizer(folder_, rules);
    if (const auto& declared = impl->added.roles[kPad]) {
      pad_ = *declared;
    } else {
      if (additions_.pad.empty()) throw RequestError("text: '{}' declares no pad token", folder_.path.string());
      pad_ = additions_.pad;
      rules.add.push_back({.content = pad_, .special = true});
      impl = make_tokenizer(folder_, rules);
    }
    ExtendedTokenizer out{Tokenizer(std::move(impl)), 0, {}};
    out.pad_id = out.tokenizer.require_id(pad_);
    for (const char* name : kPlainFiles) {
      if (fs::exists(folder_.path / name)) out.files[name] = read_file(folder_.path / name);
    }
    if (!folder_.tokenizer_json.empty()) out.files["tokenizer.json"] = tokenizer_json(out.tokenizer);
    out.files["tokenizer_config.json"] = tokenizer_config(out.tokenizer);
    out.files["special_tokens_map.json"] = special_tokens_map();
    out.files["added_tokens.json"] = added_tokens(out.tokenizer);
    return out;
  }

 private:
  std::string tokenizer_json(const Tokenizer& tokenizer) const {
    json root = read_json(folder_.tokenizer_json);
    json& list = array_at(root, "added_tokens");
    for (const AddedToken& token : tokenizer.added_tokens()) {
      if (holds(list, token.content)) continue;
      json entry = flags_of(token);
      entry["id"] = token.id;
      list.push_back(std::move(entry));
    }
    return text_of(root);
  }

  std::string tokenizer_config(const Tokenizer& tokenizer) const {
    json config = read_if_there(folder_.path / "tokenizer_config.json");
    json& decoder = config["added_tokens_decoder"];
    if (!decoder.is_object()) decoder = json::object();
    for (const AddedToken& token : tokenizer.added_tokens()) {
      json& entry = decoder[std::to_string(token.id)];
      if (entry.is_null()) entry = flags_of(token);
    }
    put_special(config);
    if (!additions_.processor_class.empty()) config["processor_class"] = additions_.processor_class;
    if (!config.contains("tokenizer_class") && !additions_.tokenizer_class.empty())
      config["tokenizer_class"] = additions_.tokenizer_class;
    return text_of(config);
  }

  std::string special_tokens_map() const {
    json map = read_if_there(folder_.path / "special_tokens_map.json");
    put_special(map);
    return text_of(map);
  }

  void put_special(json& object) const {
    json& list = array_at(object, "additional_special_tokens");
    for (const std::string& token : additions_.special) {
      if (!holds(list, token)) list.push_back(token);
    }
    object["pad_token"] = pad_;
  }

  /// What lies behind the base vocabulary, as older releases read it.
  static std::string added_tokens(const Tokenizer& tokenizer) {
    json added = json::object();
    for (const AddedToken& token : tokenizer.added_tokens()) {
      if (token.id >= tokenizer.base_size()) added[token.content] = token.id;
    }
    return text_of(added);
  }

  Folder folder_;
  const TokenizerAdditions& additions_;
  std::string pad_;
};

}  // namespace

ExtendedTokenizer extend_tokenizer(const fs::path& folder, const TokenizerAdditions& additions) {
  return Extension(folder, additions).run();
}

}  // namespace tessera::text
