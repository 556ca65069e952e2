#include "tessera/text/tokenizer.hpp"

#include "tessera/core/error.hpp"
#include "tessera/core/hash.hpp"
#include "text/tokenizer_impl.hpp"
#include "text/unicode.hpp"

namespace tessera::text {
TokenizerRules lisa_rules(bool start_end) {
  TokenizerRules rules;
  rules.release = Release::transformers_4_31;
  rules.add.push_back({.content = "[SEG]"});
  if (start_end) {
    rules.add.push_back({.content = "<im_start>"});
    rules.add.push_back({.content = "<im_end>"});
  }
  return rules;
}

std::string clean_up_spaces(std::string text) {
  constexpr std::pair<std::string_view, std::string_view> kRewrites[] = {
      {" .", "."},     {" ?", "?"},   {" !", "!"},   {" ,", ","},     {" ' ", "'"},
      {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
  };
  for (const auto& [from, to] : kRewrites) text = replace_all(text, from, to);
  return text;
}

std::string Tokenizer::Impl::piece_of(std::int64_t id) const {
  if (const AddedToken* token = added.find(id)) return token->content;
  if (id >= 0 && id < model->size()) return model->piece_of(id);
  throw RequestError("text: no token of '{}' has id {}; there are {}", folder.string(), id, added.size);
}

std::optional<std::int64_t> Tokenizer::Impl::id_of(std::string_view token) const {
  if (const AddedToken* found = added.find(token)) return found->id;
  return model->id_of(token);
}

std::int64_t Tokenizer::Impl::require_id(std::string_view token) const {
  const auto id = id_of(token);
  if (!id) {
    throw RequestError("text: the tokenizer of '{}' has no token '{}'; is it the right model folder?", folder.string(),
                       token);
  }
  return *id;
}

std::optional<std::int64_t> Tokenizer::Impl::role_id(Role role) const {
  return added.roles[role] ? id_of(*added.roles[role]) : std::nullopt;
}

void Tokenizer::Impl::take_slow_settings(const Folder& from, const TokenizerRules& rules,
                                         const ClassDefaults& defaults) {
  folder = from.path;
  added = release == Release::transformers_4_31 ? added_tokens_4_31(from, defaults, *model)
                                                : added_tokens_4_37(from, defaults, *model);
  clean_up = from.clean_up.value_or(defaults.clean_up);
  space_between = defaults.space_between;
  const auto put = [&](bool wanted, Role role, std::vector<std::string>& list) {
    if (!wanted) return;
    if (!added.roles[role]) {
      throw RequestError("text: the tokenizer of '{}' is to add a {} to every text but declares none", folder.string(),
                         kRoleNames[role]);
    }
    list.push_back(*added.roles[role]);
  };
  put(rules.add_bos.value_or(from.add_bos.value_or(defaults.add_bos)), kBos, front);
  put(from.add_eos.value_or(defaults.add_eos), kEos, back);
}

void Tokenizer::Impl::finish(const TokenizerRules& rules, const std::vector<std::string>& hashed_files) {
  for (const AddedToken& wanted : rules.add) {
    AddedToken token = wanted;
    token.id = -1;
    if (release == Release::transformers_4_31) {
      token.lstrip = token.rstrip = true;
    } else if (token.special && added.find(token.content) == nullptr) {
      added.additional.push_back(token.content);
    }
    added.add(std::move(token), *model);
  }
  for (const auto& role : added.roles) {
    if (role) special.insert(*role);
  }
  special.insert(added.additional.begin(), added.additional.end());
  for (const std::string& content : special) {
    if (const auto id = id_of(content)) special_ids.insert(*id);
  }
  Hash128 sum;
  const auto number = [&](std::int64_t value) { sum.update(&value, sizeof value); };
  const auto text = [&](std::string_view bytes) {
    number(static_cast<std::int64_t>(bytes.size()));  // so that neighbours cannot trade bytes
    sum.update(bytes);
  };
  for (const std::string& bytes : hashed_files) text(bytes);
  for (const auto& [id, token] : added.tokens) {
    added_list.push_back(token);
    number(id);
    text(token.content);
    number(token.lstrip + 2 * token.rstrip + 4 * token.single_word + 8 * token.normalized);
  }
  number(release == Release::transformers_4_31 ? 431 : 437);
  number(legacy + 2 * rules.drop_hash_merges);
  for (const auto* list : {&front, &back}) {
    number(static_cast<std::int64_t>(list->size()));
    for (const std::string& token : *list) text(token);
  }
  for (const Role role : {kBos, kEos, kUnk}) number(role_id(role).value_or(-1));
  hash = sum.hex();
}

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Encoding Tokenizer::encode(std::string_view text) const {
  require_utf8(text);
  Encoding out;
  const auto put = [&](const std::vector<std::string>& tokens) {
    for (const std::string& token : tokens) {
      out.ids.push_back(impl_->require_id(token));
      out.pieces.push_back(token);
    }
  };
  put(impl_->front);
  impl_->tokenize(text, out);
  put(impl_->back);
  return out;
}

std::string Tokenizer::decode(std::span<const std::int64_t> ids, bool skip_special) const {
  std::vector<std::string> pieces;
  for (const std::int64_t id : ids) {
    if (skip_special && impl_->special_ids.contains(id)) continue;
    pieces.push_back(impl_->piece_of(id));
  }
  std::string text = impl_->decode(pieces);
  return impl_->clean_up ? clean_up_spaces(std::move(text)) : text;
}

std::optional<std::int64_t> Tokenizer::id_of(std::string_view token) const {
  return impl_->id_of(token);
}

std::int64_t Tokenizer::require_id(std::string_view token) const {
  return impl_->require_id(token);
}
std::string Tokenizer::token_of(std::int64_t id) const {
  return impl_->piece_of(id);
}
std::int64_t Tokenizer::size() const {
  return impl_->added.size;
}
std::int64_t Tokenizer::base_size() const {
  return impl_->model->size();
}
std::optional<std::int64_t> Tokenizer::bos_id() const {
  return impl_->role_id(kBos);
}
std::optional<std::int64_t> Tokenizer::eos_id() const {
  return impl_->role_id(kEos);
}
std::optional<std::int64_t> Tokenizer::unk_id() const {
  return impl_->role_id(kUnk);
}

std::int64_t Tokenizer::pad_id() const {
  if (const auto unk = unk_id()) return *unk;
  if (const auto pad = impl_->role_id(kPad)) return *pad;
  throw RequestError("text: the tokenizer of '{}' has neither an unknown token nor a pad token to pad batches with",
                     impl_->folder.string());
}

bool Tokenizer::legacy() const {
  return impl_->legacy;
}
bool Tokenizer::adds_bos() const {
  return !impl_->front.empty();
}
Release Tokenizer::release() const {
  return impl_->release;
}
const std::vector<AddedToken>& Tokenizer::added_tokens() const {
  return impl_->added_list;
}
const std::filesystem::path& Tokenizer::folder() const {
  return impl_->folder;
}
const std::string& Tokenizer::content_hash() const {
  return impl_->hash;
}

std::unique_ptr<const Tokenizer::Impl> make_tokenizer(const Folder& folder, const TokenizerRules& rules) {
  switch (folder.kind) {
    case Kind::sentencepiece:
      return make_sentencepiece_tokenizer(folder, rules);
    case Kind::vocab_and_merges:
      return make_bpe_tokenizer(folder, rules);
    case Kind::tokenizer_json:
      return make_json_tokenizer(folder, rules);
  }
  throw RunError("text: unknown kind of tokenizer in '{}'", folder.path.string());
}

Tokenizer load_tokenizer(const std::filesystem::path& path, const TokenizerRules& rules) {
  return Tokenizer(make_tokenizer(read_folder(path), rules));
}

}  // namespace tessera::text
