#include "text/added_tokens.hpp"

#include <algorithm>
#include <set>

#include "tessera/core/error.hpp"

namespace tessera::text {
namespace {

/// Roles and additional tokens after special_tokens_map.json (if it counts) has overridden tokenizer_config.json.
struct Declared {
  std::array<std::optional<DeclaredToken>, kRoles> roles = {};
  std::vector<DeclaredToken> additional;
};

/// Appends what `list` lacks.
void put_additional(std::vector<DeclaredToken>& list, const std::vector<DeclaredToken>& more) {
  std::set<std::string> known;
  for (const DeclaredToken& token : list) known.insert(token.token.content);
  for (const DeclaredToken& token : more) {
    if (known.insert(token.token.content).second) list.push_back(token);
  }
}

/// `map_is_plain`: a bare string in special_tokens_map.json stays one (4.31 assigns it after construction); elsewhere
/// the class turns the strings of its own roles into tokens without stripping.
Declared declare(const Folder& folder, const ClassDefaults& defaults, bool use_map, bool map_is_plain) {
  Declared declared;
  for (std::size_t role = 0; role < kRoles; ++role) {
    if (folder.config.named[role]) {
      declared.roles[role] = folder.config.roles[role];
    } else if (defaults.roles[role]) {
      declared.roles[role] = DeclaredToken{{.content = *defaults.roles[role]}, true};
    }
    const bool of_class = role == kBos || role == kEos || role == kUnk || role == kPad;
    if (declared.roles[role] && of_class) declared.roles[role]->flagged = true;
    if (!use_map || !folder.map || !folder.map->named[role]) continue;
    declared.roles[role] = folder.map->roles[role];
    if (declared.roles[role] && of_class && !map_is_plain) declared.roles[role]->flagged = true;
  }
  if (folder.config.additional) declared.additional = *folder.config.additional;
  if (use_map && folder.map && folder.map->additional) {
    if (map_is_plain) declared.additional.clear();  // 4.31 assigns the list, 4.37 extends it
    put_additional(declared.additional, *folder.map->additional);
  }
  return declared;
}

void keep_roles(const Declared& declared, AddedTokens& added) {
  for (std::size_t role = 0; role < kRoles; ++role) {
    if (declared.roles[role]) added.roles[role] = declared.roles[role]->token.content;
  }
  for (const DeclaredToken& token : declared.additional) added.additional.push_back(token.token.content);
}

/// Every special token once, in the releases' order.
std::vector<DeclaredToken> in_order(const Declared& declared) {
  std::vector<DeclaredToken> all;
  for (const auto& role : declared.roles) {
    if (role) put_additional(all, {*role});
  }
  put_additional(all, declared.additional);
  std::erase_if(all, [](const DeclaredToken& t) { return t.token.content.empty(); });
  return all;
}

std::map<std::string, DeclaredToken> by_name(const std::vector<DeclaredToken>& tokens) {
  std::map<std::string, DeclaredToken> named;
  for (const DeclaredToken& token : tokens) named.emplace(token.token.content, token);
  return named;
}

/// Without flags of its own a token strips both sides in 4.31.
AddedToken as_4_31(const DeclaredToken& declared) {
  AddedToken token = declared.token;
  if (!declared.flagged) token.lstrip = token.rstrip = true;
  token.single_word = false;  // 4.31's slow tokenizers do not look at it
  return token;
}

}  // namespace

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto it = ids.find(content);
  return it == ids.end() ? nullptr : &tokens.at(it->second);
}

const AddedToken* AddedTokens::find(std::int64_t id) const {
  const auto it = tokens.find(id);
  return it == tokens.end() ? nullptr : &it->second;
}

void AddedTokens::add(AddedToken token, const Model& model) {
  if (token.content.empty() || find(token.content) != nullptr) return;
  if (token.id < 0) token.id = model.id_of(token.content).value_or(size);
  if (const AddedToken* other = find(token.id)) {
    throw RequestError("text: the added tokens '{}' and '{}' both have id {}", other->content, token.content, token.id);
  }
  if (token.id >= model.size()) size = std::max(size, token.id + 1);
  ids.emplace(token.content, token.id);
  tokens.emplace(token.id, std::move(token));
}

AddedTokens added_tokens_4_31(const Folder& folder, const ClassDefaults& defaults, const Model& model) {
  const Declared declared = declare(folder, defaults, true, true);
  const std::vector<DeclaredToken> special = in_order(declared);
  const std::map<std::string, DeclaredToken> special_by_name = by_name(special);
  AddedTokens added;
  added.size = model.size();
  keep_roles(declared, added);
  const auto put = [&](const std::string& content, std::int64_t id) {
    const auto it = special_by_name.find(content);
    const bool as_special = it != special_by_name.end();
    AddedToken token = as_4_31(as_special ? it->second : DeclaredToken{{.content = content}, false});
    token.special = as_special;
    token.id = id;
    added.add(std::move(token), model);
  };
  for (const auto& [content, id] : folder.added_tokens) put(content, id);
  // 4.31 does not know this key; a folder that has nothing else keeps its tokens all the same.
  if (folder.added_tokens.empty() && folder.added_decoder) {
    for (const auto& [id, token] : *folder.added_decoder) put(token.content, id);
  }
  for (const DeclaredToken& token : special) put(token.token.content, -1);
  return added;
}

AddedTokens added_tokens_4_37(const Folder& folder, const ClassDefaults& defaults, const Model& model) {
  const Declared declared = declare(folder, defaults, !folder.added_decoder, false);
  const std::vector<DeclaredToken> special = in_order(declared);
  AddedTokens added;
  added.size = model.size();
  keep_roles(declared, added);
  const std::map<std::string, DeclaredToken> special_by_name = by_name(special);
  const auto is_special = [&](const std::string& content) { return special_by_name.contains(content); };
  std::map<std::int64_t, AddedToken> by_id;
  if (folder.added_decoder) {
    by_id = *folder.added_decoder;
  } else {
    for (const auto& [content, id] : folder.added_tokens) {
      const bool as_special = is_special(content);
      by_id[id] = {.content = content, .id = id, .normalized = !as_special, .special = as_special};
    }
    for (const AddedToken& token : folder.json_added) by_id[token.id] = token;
  }
  for (const auto& [id, token] : by_id) added.add(token, model);
  for (const DeclaredToken& declared_token : special) {
    AddedToken token = declared_token.token;
    token.id = -1;
    token.special = true;
    added.add(std::move(token), model);
  }
  // What is special by its flag joins the special tokens.
  for (const auto& [id, token] : added.tokens) {
    if (token.special && !is_special(token.content)) added.additional.push_back(token.content);
  }
  return added;
}

Splitter::Splitter(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    by_first_byte_[static_cast<unsigned char>(tokens_[i].content[0])].push_back(i);
  }
  for (auto& bucket : by_first_byte_) {
    std::stable_sort(bucket.begin(), bucket.end(), [&](std::size_t a, std::size_t b) {
      return tokens_[a].content.size() > tokens_[b].content.size();
    });
  }
}

const AddedToken* Splitter::match(std::string_view text, std::size_t at) const {
  for (const std::size_t i : by_first_byte_[static_cast<unsigned char>(text[at])]) {
    if (text.substr(at).starts_with(tokens_[i].content)) return &tokens_[i];
  }
  return nullptr;
}

std::vector<Splitter::Part> Splitter::split(std::string_view text) const {
  std::vector<Part> parts;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const AddedToken* token = match(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    if (at > begin) parts.push_back({text.substr(begin, at - begin), nullptr});
    parts.push_back({text.substr(at, token->content.size()), token});
    begin = at += token->content.size();
  }
  if (begin < text.size()) parts.push_back({text.substr(begin), nullptr});
  return parts;
}

}  // namespace tessera::text
