/// The slow LlamaTokenizer of transformers 4.31 and 4.37 over a sentencepiece model.
#include <algorithm>

#include "tessera/core/error.hpp"
#include "text/json_file.hpp"
#include "text/sentencepiece_model.hpp"
#include "text/tokenizer_impl.hpp"
#include "text/unicode.hpp"

namespace tessera::text {
namespace {

constexpr std::string_view kUnderline = "\xE2\x96\x81";  // U+2581, sentencepiece's visible space

struct SentencePieceTokenizer final : Tokenizer::Impl {
  std::unique_ptr<const Splitter> splitter;
  std::string unk_text;             ///< 4.37, non-legacy: encoded in front of a segment that begins with a space
  std::size_t unk_text_length = 0;  ///< pieces that it takes

  const SentencePieceModel& sp() const { return static_cast<const SentencePieceModel&>(*model); }

  void tokenize(std::string_view text, Encoding& out) const override;
  std::string decode(const std::vector<std::string>& pieces, const std::vector<std::int64_t>& ids) const override;

 private:
  std::vector<std::string> segment_4_31(std::string_view text) const;
  std::vector<std::string> segment_4_37(std::string_view text) const;
  std::string join_run(std::vector<std::string> run) const;
};

/// Non-legacy 4.31: the first segment carries the mark of the text's beginning; any other loses the space that the
/// model puts in front, even where what is left is no piece (it becomes the unknown id, as there).
std::vector<std::string> SentencePieceTokenizer::segment_4_31(std::string_view text) const {
  if (legacy) return sp().pieces_of(text);
  const bool first = text.starts_with(kUnderline);
  if (first) text.remove_prefix(kUnderline.size());
  std::vector<std::string> pieces = sp().pieces_of(text);
  if (!first && !text.starts_with(' ') && !pieces.empty() && pieces[0].starts_with(kUnderline)) {
    pieces[0].erase(0, kUnderline.size());
    if (pieces[0].empty()) pieces.erase(pieces.begin());
  }
  return pieces;
}

/// Non-legacy 4.37: the model puts no space in front, but drops one that is there; the unknown token's text in front
/// keeps it, and its pieces are cut off again.
std::vector<std::string> SentencePieceTokenizer::segment_4_37(std::string_view text) const {
  if (legacy || !(text.starts_with(kUnderline) || text.starts_with(' '))) return sp().pieces_of(text);
  std::vector<std::string> pieces = sp().pieces_of(unk_text + std::string(text));
  if (pieces.size() >= unk_text_length) {
    pieces.erase(pieces.begin(), pieces.begin() + static_cast<std::ptrdiff_t>(unk_text_length));
  }
  return pieces;
}

void SentencePieceTokenizer::tokenize(std::string_view given, Encoding& out) const {
  const bool is_4_31 = release == Release::transformers_4_31;
  std::string marked;
  if (!legacy && (is_4_31 || !given.empty())) {
    marked = std::string(kUnderline) + replace_all(given, kUnderline, " ");
    given = marked;
  }
  std::vector<Splitter::Part> parts = splitter->split(given);
  std::vector<std::string> glued(parts.size());  // segments that a single_word token was given back to
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const AddedToken* token = parts[i].token;
    if (token == nullptr) continue;
    Splitter::Part* left = i > 0 ? &parts[i - 1] : nullptr;
    Splitter::Part* right = i + 1 < parts.size() ? &parts[i + 1] : nullptr;
    // The references strip a neighbour whatever it is; an added token that begins with a space would change there.
    if (token->rstrip && right != nullptr && right->token == nullptr) right->text = lstrip(right->text);
    if (token->lstrip && left != nullptr && left->token == nullptr) left->text = rstrip(left->text);
    if (!token->single_word) continue;
    if (left != nullptr && !left->text.empty() && left->text.back() != ' ') {
      glued[i - 1] = std::string(left->text) + token->content;
      *left = {glued[i - 1], nullptr};
      parts[i] = {};
    } else if (right != nullptr && !right->text.empty() && right->text.front() != ' ') {
      glued[i + 1] = token->content + std::string(right->text);
      *right = {glued[i + 1], nullptr};
      parts[i] = {};
    }
  }
  const std::size_t begin = out.ids.size();
  for (const Splitter::Part& part : parts) {
    if (part.text.empty()) continue;
    if (part.token != nullptr) {
      out.ids.push_back(part.token->id);
      out.pieces.push_back(part.token->content);
      continue;
    }
    for (std::string& piece : is_4_31 ? segment_4_31(part.text) : segment_4_37(part.text)) {
      const AddedToken* token = added.find(piece);
      out.ids.push_back(token != nullptr ? token->id : sp().piece_to_id(piece));
      out.pieces.push_back(std::move(piece));
    }
  }
  if (!legacy && !is_4_31 && out.ids.size() > begin + 1 && out.pieces[begin] == kUnderline &&
      special.contains(out.pieces[begin + 1])) {
    out.ids.erase(out.ids.begin() + static_cast<std::ptrdiff_t>(begin));
    out.pieces.erase(out.pieces.begin() + static_cast<std::ptrdiff_t>(begin));
  }
}

/// convert_tokens_to_string: special tokens stand as they are, in legacy mode with a space before them.
std::string SentencePieceTokenizer::join_run(std::vector<std::string> run) const {
  const bool is_4_31 = release == Release::transformers_4_31;
  if (!is_4_31 && run[0].starts_with(kUnderline)) run[0].erase(0, kUnderline.size());
  std::string text;
  std::vector<std::string> pending;
  bool after_special = false;
  for (std::size_t i = 0; i < run.size(); ++i) {
    if (!special.contains(run[i])) {
      pending.push_back(std::move(run[i]));
      after_special = false;
      continue;
    }
    if (!after_special && i != 0 && (is_4_31 || legacy)) text += ' ';
    text += sp().join(pending) + run[i];
    after_special = true;
    pending.clear();
  }
  return text + sp().join(pending);
}

std::string SentencePieceTokenizer::decode(const std::vector<std::string>& pieces,
                                           const std::vector<std::int64_t>&) const {
  const bool is_4_31 = release == Release::transformers_4_31;
  const std::set<std::string, std::less<>> extra(added.additional.begin(), added.additional.end());
  const auto stands_alone = [&](const std::string& piece) {
    const AddedToken* token = added.find(piece);
    if (token == nullptr) return false;
    const bool beyond = token->id >= model->size();
    return is_4_31 ? beyond : !special.contains(piece) || (beyond && extra.contains(piece));
  };
  std::vector<std::string> parts;
  std::vector<std::string> run;
  const auto flush = [&] {
    if (run.empty()) return;
    std::string text = join_run(std::move(run));
    if (is_4_31 || !text.empty()) parts.push_back(std::move(text));
    run.clear();
  };
  for (const std::string& piece : pieces) {
    if (!stands_alone(piece)) {
      run.push_back(piece);
      continue;
    }
    flush();
    parts.push_back(piece);
  }
  if (!run.empty()) parts.push_back(join_run(std::move(run)));
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0 && space_between) text += ' ';
    text += parts[i];
  }
  return text;
}

ClassDefaults llama_defaults() {
  ClassDefaults defaults;
  defaults.roles[kBos] = "<s>";
  defaults.roles[kEos] = "</s>";
  defaults.roles[kUnk] = "<unk>";
  defaults.add_bos = true;
  defaults.clean_up = false;
  return defaults;
}

}  // namespace

std::unique_ptr<const Tokenizer::Impl> make_sentencepiece_tokenizer(const Folder& folder, const TokenizerRules& rules) {
  const ClassDefaults defaults = llama_defaults();
  auto impl = std::make_unique<SentencePieceTokenizer>();
  impl->folder = folder.path;
  impl->release = choose_release(folder, rules);
  const bool is_4_31 = impl->release == Release::transformers_4_31;
  impl->legacy = rules.legacy.value_or(folder.legacy.value_or(true));
  std::string bytes = read_file(folder.model_file);
  impl->model = std::make_unique<SentencePieceModel>(bytes, impl->legacy || is_4_31, folder.model_file);
  impl->added =
      is_4_31 ? added_tokens_4_31(folder, defaults, *impl->model) : added_tokens_4_37(folder, defaults, *impl->model);
  impl->add_bos = rules.add_bos.value_or(folder.add_bos.value_or(defaults.add_bos));
  impl->add_eos = folder.add_eos.value_or(defaults.add_eos);
  impl->clean_up = folder.clean_up.value_or(defaults.clean_up);
  impl->space_between = defaults.space_between;
  impl->finish(rules, {std::move(bytes)});
  if ((impl->add_bos && !impl->role_id(kBos)) || (impl->add_eos && !impl->role_id(kEos))) {
    throw RequestError("text: the tokenizer of '{}' is to add a BOS or EOS token but declares none",
                       folder.path.string());
  }
  impl->splitter = std::make_unique<const Splitter>(impl->added_list);
  if (!impl->legacy && !is_4_31) {
    impl->unk_text = impl->added.roles[kUnk].value_or("");
    impl->unk_text_length = impl->sp().pieces_of(impl->unk_text).size();
  }
  return impl;
}

}  // namespace tessera::text
