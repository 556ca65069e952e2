/// The slow LlamaTokenizer of transformers 4.31 and 4.37 over a sentencepiece model.
#include "tessera/core/error.hpp"
#include "text/json_file.hpp"
#include "text/sentencepiece_model.hpp"
#include "text/slow_tokenizer.hpp"
#include "text/unicode.hpp"

namespace tessera::text {
namespace {

constexpr std::string_view kUnderline = "\xE2\x96\x81";  // U+2581, sentencepiece's visible space

struct SentencePieceTokenizer final : SlowTokenizer {
  std::string unk_text;             ///< 4.37, non-legacy: encoded in front of a segment that begins with a space
  std::size_t unk_text_length = 0;  ///< pieces that it takes

  const SentencePieceModel& sp() const { return static_cast<const SentencePieceModel&>(*model); }
  bool is_4_31() const { return release == Release::transformers_4_31; }

  void tokenize(std::string_view text, Encoding& out) const override;

 protected:
  void encode_segment(std::string_view text, Encoding& out) const override;
  std::string join_run(std::vector<std::string> run) const override;

 private:
  std::vector<std::string> segment_4_31(std::string_view text) const;
  std::vector<std::string> segment_4_37(std::string_view text) const;
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

void SentencePieceTokenizer::encode_segment(std::string_view text, Encoding& out) const {
  for (std::string& piece : is_4_31() ? segment_4_31(text) : segment_4_37(text)) {
    const AddedToken* token = added.find(piece);
    out.ids.push_back(token != nullptr ? token->id : sp().piece_to_id(piece));
    out.pieces.push_back(std::move(piece));
  }
}

void SentencePieceTokenizer::tokenize(std::string_view text, Encoding& out) const {
  if (legacy || (text.empty() && !is_4_31())) return SlowTokenizer::tokenize(text, out);
  const std::size_t begin = out.ids.size();
  SlowTokenizer::tokenize(std::string(kUnderline) + replace_all(text, kUnderline, " "), out);
  const bool lone_mark = out.ids.size() > begin + 1 && out.pieces[begin] == kUnderline;
  if (!is_4_31() && lone_mark && special.contains(out.pieces[begin + 1])) {
    out.ids.erase(out.ids.begin() + static_cast<std::ptrdiff_t>(begin));
    out.pieces.erase(out.pieces.begin() + static_cast<std::ptrdiff_t>(begin));
  }
}

/// Special tokens stand as they are, in legacy mode with a space before them.
std::string SentencePieceTokenizer::join_run(std::vector<std::string> run) const {
  if (!is_4_31() && run[0].starts_with(kUnderline)) run[0].erase(0, kUnderline.size());
  std::string text;
  std::vector<std::string> pending;
  bool after_special = false;
  for (std::size_t i = 0; i < run.size(); ++i) {
    if (!special.contains(run[i])) {
      pending.push_back(std::move(run[i]));
      after_special = false;
      continue;
    }
    if (!after_special && i != 0 && (is_4_31() || legacy)) text += ' ';
    text += sp().join(pending) + run[i];
    after_special = true;
    pending.clear();
  }
  return text + sp().join(pending);
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
  impl->release = choose_release(folder, rules);
  impl->legacy = rules.legacy.value_or(folder.legacy.value_or(true));
  std::string bytes = read_file(folder.model_file);
  impl->model = std::make_unique<SentencePieceModel>(bytes, impl->legacy || impl->is_4_31(), folder.model_file);
  impl->take_slow_settings(folder, rules, defaults);
  impl->finish(rules, {std::move(bytes)});
  impl->make_splitter();
  if (!impl->legacy && !impl->is_4_31()) {
    impl->unk_text = impl->added.roles[kUnk].value_or("");
    impl->unk_text_length = impl->sp().pieces_of(impl->unk_text).size();
  }
  return impl;
}

}  // namespace tessera::text
