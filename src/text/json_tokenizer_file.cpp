#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"
#include "text/json_tokenizer.hpp"

namespace tessera::text {
namespace {

using nlohmann::json;

class Parser {
 public:
  Parser(const std::filesystem::path& file, JsonTokenizerFile& out) : file_(file), out_(out) {}

  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> text, Args&&... args) const {
    throw RequestError("text: '{}': {}", file_.string(), fmt::format(text, std::forward<Args>(args)...));
  }

  const json* child(const json& object, const char* key) const {
    if (!object.is_object()) fail("an object is missing around '{}'", key);
    const auto it = object.find(key);
    return it == object.end() || it->is_null() ? nullptr : &*it;
  }
  std::string string_of(const json& object, const char* key) const {
    const json* value = child(object, key);
    if (value == nullptr) return "";
    if (!value->is_string()) fail("'{}' is no string", key);
    return value->get<std::string>();
  }
  bool flag(const json& object, const char* key, bool fallback) const {
    const json* value = child(object, key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) fail("'{}' is neither true nor false", key);
    return value->get<bool>();
  }
  const json& list_of(const json& object, const char* key) const {
    const json* value = child(object, key);
    if (value == nullptr || !value->is_array()) fail("'{}' is no list", key);
    return *value;
  }

  void normalizer(const json& part) const {
    const std::string type = string_of(part, "type");
    if (type == "Sequence") {
      for (const json& one : list_of(part, "normalizers")) normalizer(one);
    } else if (type == "NFC") {
      out_.normalises = true;
    } else {
      fail("its normalizer '{}' is not known here; NFC is", type);
    }
  }

  void pre_tokenizer(const json& part) const {
    const std::string type = string_of(part, "type");
    if (type == "Sequence") {
      for (const json& one : list_of(part, "pretokenizers")) pre_tokenizer(one);
    } else if (type == "ByteLevel") {
      out_.settings.add_prefix_space = flag(part, "add_prefix_space", true);
      if (flag(part, "use_regex", true)) out_.settings.cuts.push_back({Regex(kGpt2Pattern, where())});
      byte_level_ = true;
    } else if (type == "Split") {
      split(part);
    } else if (type == "Digits") {
      const bool single = flag(part, "individual_digits", false);
      out_.settings.cuts.push_back({Regex(single ? "\\p{N}" : "\\p{N}+", where())});
    } else {
      fail("its pre_tokenizer '{}' is not known here; ByteLevel, Split, Digits and Sequence are", type);
    }
  }

  void split(const json& part) const {
    const json* pattern = child(part, "pattern");
    if (pattern == nullptr) fail("a Split without a pattern");
    std::string text = string_of(*pattern, "Regex");
    if (text.empty()) {
      text = string_of(*pattern, "String");
      if (text.empty()) fail("a Split with an empty pattern");
      text = "\\Q" + text + "\\E";
    }
    const std::string behavior = string_of(part, "behavior");
    if (flag(part, "invert", false)) {
      if (behavior != "Removed") fail("a Split that is inverted and '{}'; only Removed is known", behavior);
      out_.settings.cuts.push_back({Regex(text, where()), true, false});
    } else if (behavior == "Isolated" || behavior == "Removed") {
      out_.settings.cuts.push_back({Regex(text, where()), behavior == "Isolated", true});
    } else {
      fail("a Split that is '{}'; Isolated and Removed are known", behavior);
    }
  }

  void post_processor(const json& part) const {
    const std::string type = string_of(part, "type");
    if (type == "Sequence") {
      for (const json& one : list_of(part, "processors")) post_processor(one);
    } else if (type == "TemplateProcessing") {
      bool before = true;
      for (const json& one : list_of(part, "single")) {
        if (child(one, "Sequence") != nullptr) {
          before = false;
        } else if (const json* token = child(one, "SpecialToken")) {
          (before ? out_.front : out_.back).push_back(string_of(*token, "id"));
        } else {
          fail("a TemplateProcessing with something else than tokens and sequences");
        }
      }
    } else if (type != "ByteLevel") {  // which only concerns offsets
      fail("its post_processor '{}' is not known here; ByteLevel and TemplateProcessing are", type);
    }
  }

  void decoder(const json& part) const {
    const std::string type = string_of(part, "type");
    if (type != "ByteLevel") fail("its decoder '{}' is not known here; ByteLevel is", type);
  }

  void model(const json& part) const {
    const std::string type = string_of(part, "type");
    if (type != "BPE") fail("its model is '{}'; byte-level BPE is what is read from this file", type);
    if (flag(part, "byte_fallback", false) || !string_of(part, "continuing_subword_prefix").empty() ||
        !string_of(part, "end_of_word_suffix").empty() || flag(part, "ignore_merges", false)) {
      fail(
          "its BPE is not byte-level (byte_fallback, ignore_merges, a prefix or a suffix); if tokenizer.model exists, "
          "put it into the folder");
    }
    out_.settings.unk_token = string_of(part, "unk_token");
    out_.settings.fuse_unk = flag(part, "fuse_unk", false);
    const json* vocabulary = child(part, "vocab");
    if (vocabulary == nullptr || !vocabulary->is_object()) fail("its model has no vocab");
    out_.vocabulary.reserve(vocabulary->size());
    for (const auto& [piece, id] : vocabulary->items()) {
      if (!id.is_number_integer()) fail("'{}' has no whole id", piece);
      out_.vocabulary.emplace_back(piece, id.get<std::int64_t>());
    }
    for (const json& one : list_of(part, "merges")) merge(one);
  }

  /// "a b", or since tokenizers 0.20 ["a", "b"].
  void merge(const json& one) const {
    if (one.is_array() && one.size() == 2 && one[0].is_string() && one[1].is_string()) {
      out_.merges.emplace_back(one[0].get<std::string>(), one[1].get<std::string>());
      return;
    }
    const std::string text = one.is_string() ? one.get<std::string>() : "";
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      fail("merge {} is not two pieces", out_.merges.size());
    }
    out_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }

  void finish() const {
    if (!byte_level_) fail("its pre_tokenizer has no ByteLevel part, so it is not byte-level BPE");
  }

 private:
  std::string where() const { return "'" + file_.string() + "'"; }

  const std::filesystem::path& file_;
  JsonTokenizerFile& out_;
  mutable bool byte_level_ = false;
};

}  // namespace

JsonTokenizerFile parse_tokenizer_json(const json& root, const std::filesystem::path& file) {
  JsonTokenizerFile out;
  const Parser parser(file, out);
  if (const json* part = parser.child(root, "normalizer")) parser.normalizer(*part);
  if (const json* part = parser.child(root, "pre_tokenizer")) parser.pre_tokenizer(*part);
  if (const json* part = parser.child(root, "post_processor")) parser.post_processor(*part);
  if (const json* part = parser.child(root, "decoder")) parser.decoder(*part);
  const json* model = parser.child(root, "model");
  if (model == nullptr) parser.fail("it has no model");
  parser.model(*model);
  parser.finish();
  out.added = parse_json_added(root, file);
  return out;
}

}  // namespace tessera::text
