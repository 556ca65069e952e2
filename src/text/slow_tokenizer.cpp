#include "text/slow_tokenizer.hpp"

#include "text/unicode.hpp"

namespace tessera::text {
namespace {

using Parts = std::vector<Splitter::Part>;

/// Strips the neighbours of added tokens as their flags say and gives back single-word tokens that touch a word;
/// `glued` owns the texts made on the way.
void apply_flags(Parts& parts, std::vector<std::string>& glued) {
  glued.resize(parts.size());
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
}

}  // namespace

void SlowTokenizer::tokenize(std::string_view text, Encoding& out) const {
  Parts parts = splitter_->split(text);
  std::vector<std::string> glued;
  apply_flags(parts, glued);
  for (const Splitter::Part& part : parts) {
    if (part.text.empty()) continue;
    if (part.token != nullptr) {
      out.ids.push_back(part.token->id);
      out.pieces.push_back(part.token->content);
    } else {
      encode_segment(part.text, out);
    }
  }
}

std::string SlowTokenizer::decode(const std::vector<std::string>& pieces) const {
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
  for (const std::string& piece : pieces) {
    if (!stands_alone(piece)) {
      run.push_back(piece);
      continue;
    }
    if (!run.empty()) {
      std::string text = join_run(std::move(run));
      run.clear();
      if (is_4_31 || !text.empty()) parts.push_back(std::move(text));
    }
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

}  // namespace tessera::text
