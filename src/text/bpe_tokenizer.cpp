/// The slow Qwen2Tokenizer and GPT2Tokenizer over vocab.json and merges.txt.
#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"
#include "text/byte_bpe.hpp"
#include "text/json_file.hpp"
#include "text/slow_tokenizer.hpp"
#include "text/unicode.hpp"

namespace tessera::text {
namespace {

struct BpeTokenizer final : SlowTokenizer {
  bool normalises = false;        ///< NFC of the whole text, before added tokens are looked for
  bool add_prefix_space = false;  ///< once, in front of the whole text

  void tokenize(std::string_view text, Encoding& out) const override {
    std::string changed;
    if (normalises) text = changed = nfc(text);
    if (add_prefix_space && !text.starts_with(' ')) text = changed = " " + std::string(text);
    SlowTokenizer::tokenize(text, out);
  }

 protected:
  void encode_segment(std::string_view text, Encoding& out) const override { model->encode(text, out.ids, out.pieces); }
  std::string join_run(std::vector<std::string> run) const override { return model->join(run); }
};

constexpr const char* kEndOfText = "<|endoftext|>";
constexpr std::size_t kQwenPieces = 151643;  // of every Qwen, Qwen1.5 and Qwen2 release
constexpr std::size_t kGpt2Pieces = 50257;

struct Family {
  bool qwen2 = false;
  ClassDefaults defaults;
  std::vector<std::string> specials;  ///< tokens of a bare vocabulary that no configuration lies beside
};

Family identify(const Folder& folder, std::size_t pieces) {
  Family family;
  family.qwen2 = folder.tokenizer_class == "Qwen2Tokenizer";
  bool gpt2 = folder.tokenizer_class == "GPT2Tokenizer" || folder.tokenizer_class == "GPTNeoXTokenizer";
  if (!family.qwen2 && !gpt2) {
    family.qwen2 = pieces == kQwenPieces;
    gpt2 = pieces == kGpt2Pieces;
    if (family.qwen2) family.specials = {kEndOfText, "<|im_start|>", "<|im_end|>"};
  }
  if (!family.qwen2 && !gpt2) {
    throw RequestError(
        "text: '{}' does not say how its vocabulary of {} pieces cuts words: set tokenizer_class in "
        "tokenizer_config.json to Qwen2Tokenizer or GPT2Tokenizer (it says '{}')",
        folder.path.string(), pieces, folder.tokenizer_class);
  }
  for (const Role role : {kEos, kUnk}) family.defaults.roles[role] = kEndOfText;
  family.defaults.roles[family.qwen2 ? kPad : kBos] = kEndOfText;
  family.defaults.clean_up = !family.qwen2;
  family.defaults.space_between = !family.qwen2;
  return family;
}

std::vector<std::pair<std::string, std::int64_t>> parse_vocabulary(const std::string& bytes,
                                                                   const std::filesystem::path& file) {
  const nlohmann::json vocabulary = parse_json(bytes, file);
  if (!vocabulary.is_object()) throw RequestError("text: '{}' is not a JSON object", file.string());
  std::vector<std::pair<std::string, std::int64_t>> pieces;
  pieces.reserve(vocabulary.size());
  for (const auto& [piece, id] : vocabulary.items()) {
    if (!id.is_number_integer()) throw RequestError("text: '{}': '{}' has no whole id", file.string(), piece);
    pieces.emplace_back(piece, id.get<std::int64_t>());
  }
  return pieces;
}

std::vector<Merge> parse_merges(const std::string& bytes, bool drop_hash, const std::filesystem::path& file) {
  std::vector<Merge> merges;
  std::size_t number = 0;
  for (std::string_view line : split(bytes, "\n")) {
    ++number;
    line = strip(line);
    if (line.empty() || (number == 1 && line.starts_with("#version")) || (drop_hash && line.starts_with('#'))) continue;
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos ||
        find_invalid_utf8(line) != std::string_view::npos) {
      throw RequestError("text: '{}' line {} is not two pieces with a space between", file.string(), number);
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return merges;
}

}  // namespace

std::unique_ptr<const Tokenizer::Impl> make_bpe_tokenizer(const Folder& folder, const TokenizerRules& rules) {
  std::string vocab_bytes = read_file(folder.model_file);
  std::string merge_bytes = read_file(folder.merges_file);
  const auto pieces = parse_vocabulary(vocab_bytes, folder.model_file);
  const Family family = identify(folder, pieces.size());
  const std::string where = "'" + folder.model_file.string() + "'";
  BpeSettings settings;
  settings.cuts.push_back({Regex(family.qwen2 ? kQwen2Pattern : kGpt2Pattern, where), true, false});
  auto impl = std::make_unique<BpeTokenizer>();
  impl->release = choose_release(folder, rules);
  impl->legacy = false;  // a word of sentencepiece's tokenizers
  impl->normalises = family.qwen2;
  impl->add_prefix_space = folder.add_prefix_space.value_or(false);
  impl->model = std::make_unique<ByteBpe>(pieces, parse_merges(merge_bytes, rules.drop_hash_merges, folder.merges_file),
                                          std::move(settings), where);
  impl->take_slow_settings(folder, rules, family.defaults);
  for (const std::string& content : family.specials) {
    const bool known = impl->added.find(content) != nullptr;
    impl->added.add({.content = content, .special = true}, *impl->model);
    if (!known) impl->added.additional.push_back(content);
  }
  impl->finish(rules, {std::move(vocab_bytes), std::move(merge_bytes)});
  impl->make_splitter();
  return impl;
}

}  // namespace tessera::text
