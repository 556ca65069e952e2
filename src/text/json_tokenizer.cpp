/// The fast tokenizers: tokenizer.json as the tokenizers library runs it, with the settings that transformers adds.
#include "text/json_tokenizer.hpp"

#include <utf8proc.h>

#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"
#include "text/json_file.hpp"
#include "text/tokenizer_impl.hpp"
#include "text/unicode.hpp"

namespace tessera::text {
namespace {

/// White space by Unicode's property, which lacks the separators U+001C … U+001F that Python counts.
bool is_white_space(char32_t code) {
  return is_python_space(code) && !(code >= 0x1C && code <= 0x1F);
}

bool is_word(char32_t code) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  const bool letter_or_mark = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_ND;
  return letter_or_mark || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_PC || code == 0x200C ||
         code == 0x200D;
}

char32_t last_code_point(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return next_code_point(text, at);
}

/// Added tokens matched in one form of the text, with the library's flags.
std::vector<Splitter::Part> find_added(const Splitter& splitter, std::string_view text) {
  std::vector<Splitter::Part> parts;
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const AddedToken* token = splitter.match(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = at + token->content.size();
    at = end;
    if (token->single_word) {
      std::size_t peek = end;
      if ((begin > 0 && is_word(last_code_point(text.substr(0, begin)))) ||
          (end < text.size() && is_word(next_code_point(text, peek)))) {
        continue;
      }
    }
    if (token->lstrip) {
      while (begin > done && is_white_space(last_code_point(text.substr(0, begin)))) {
        do --begin;
        while ((static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80);
      }
    }
    while (token->rstrip && end < text.size()) {
      std::size_t next = end;
      if (!is_white_space(next_code_point(text, next))) break;
      end = next;
    }
    if (begin > done) parts.push_back({text.substr(done, begin - done), nullptr});
    parts.push_back({text.substr(begin, end - begin), token});
    done = at = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), nullptr});
  return parts;
}

struct JsonTokenizer final : Tokenizer::Impl {
  bool normalises = false;
  std::unique_ptr<const Splitter> raw, normalised;  ///< tokens looked for before and after normalising

  void tokenize(std::string_view text, Encoding& out) const override {
    const auto put = [&](const AddedToken& token) {
      out.ids.push_back(token.id);
      out.pieces.push_back(token.content);
    };
    for (const Splitter::Part& outer : find_added(*raw, text)) {
      if (outer.token != nullptr) {
        put(*outer.token);
        continue;
      }
      const std::string segment = normalises ? nfc(outer.text) : std::string(outer.text);
      for (const Splitter::Part& part : find_added(*normalised, segment)) {
        if (part.token != nullptr) {
          put(*part.token);
        } else {
          model->encode(part.text, out.ids, out.pieces);
        }
      }
    }
  }

  std::string decode(const std::vector<std::string>& pieces) const override { return model->join(pieces); }
};

/// Roles that the class declares where no file does.
void take_roles(const Folder& folder, AddedTokens& added) {
  const bool neox = folder.tokenizer_class == "GPTNeoXTokenizer" || folder.tokenizer_class == "GPT2Tokenizer";
  const bool qwen2 = folder.tokenizer_class == "Qwen2Tokenizer";
  for (const Role role : {kBos, kEos, kUnk, kPad}) {
    if ((neox && role != kPad) || (qwen2 && role != kBos)) added.roles[role] = "<|endoftext|>";
  }
  const bool map_counts = folder.map && !folder.added_decoder;
  for (std::size_t role = 0; role < kRoles; ++role) {
    for (const SpecialTokens* source : {&folder.config, map_counts ? &*folder.map : nullptr}) {
      if (source == nullptr || !source->named[role]) continue;
      added.roles[role].reset();
      if (source->roles[role]) added.roles[role] = source->roles[role]->token.content;
    }
  }
}

}  // namespace

std::unique_ptr<const Tokenizer::Impl> make_json_tokenizer(const Folder& folder, const TokenizerRules& rules) {
  std::string bytes = read_file(folder.model_file);
  JsonTokenizerFile file = parse_tokenizer_json(parse_json(bytes, folder.model_file), folder.model_file);
  auto impl = std::make_unique<JsonTokenizer>();
  impl->folder = folder.path;
  impl->release = choose_release(folder, rules);
  impl->legacy = false;
  impl->normalises = file.normalises;
  impl->clean_up = folder.clean_up.value_or(folder.tokenizer_class != "Qwen2Tokenizer");
  impl->model = std::make_unique<ByteBpe>(file.vocabulary, file.merges, std::move(file.settings),
                                          "'" + folder.model_file.string() + "'");
  AddedTokens& added = impl->added;
  added.size = impl->model->size();
  for (AddedToken token : file.added) {
    // The library goes by the vocabulary where it has the token, whatever id is written beside it.
    if (impl->model->id_of(token.content)) token.id = -1;
    added.add(std::move(token), *impl->model);
  }
  if (folder.added_decoder) {
    for (const auto& [id, token] : *folder.added_decoder) added.add(token, *impl->model);
  }
  for (const auto& [content, id] : folder.added_tokens)
    added.add({.content = content, .id = id, .normalized = true}, *impl->model);
  take_roles(folder, added);
  for (const auto& role : added.roles) {
    if (role) added.add({.content = *role, .special = true}, *impl->model);
  }
  for (const auto& [id, token] : added.tokens) {
    if (token.special) added.additional.push_back(token.content);
  }
  impl->front = file.front;
  impl->back = file.back;
  if (rules.add_bos) {
    impl->front.clear();
    if (*rules.add_bos && !added.roles[kBos]) {
      throw RequestError("text: the tokenizer of '{}' declares no BOS token to add", folder.path.string());
    }
    if (*rules.add_bos) impl->front.push_back(*added.roles[kBos]);
  }
  impl->finish(rules, {std::move(bytes)});
  std::vector<AddedToken> raw;
  std::vector<AddedToken> normalised;
  for (AddedToken token : impl->added_list) {
    if (token.normalized && impl->normalises) token.content = nfc(token.content);
    (token.normalized ? normalised : raw).push_back(std::move(token));
  }
  impl->raw = std::make_unique<const Splitter>(std::move(raw));
  impl->normalised = std::make_unique<const Splitter>(std::move(normalised));
  return impl;
}

}  // namespace tessera::text
