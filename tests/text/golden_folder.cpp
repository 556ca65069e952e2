#include "text/golden_folder.hpp"

#include <zlib.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>

#include "text/byte_bpe.hpp"

namespace tessera::testing_support {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string unpack(const fs::path& path) {
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  if (!file) throw std::runtime_error("cannot open " + path.string());
  std::string bytes;
  char block[1 << 16];
  for (int got; (got = gzread(file.get(), block, sizeof block)) > 0;)
    bytes.append(block, static_cast<std::size_t>(got));
  return bytes;
}

/// Models that may not be redistributed: LLaMA's own, and one that extends it.
bool is_apart(const std::string& model) {
  return model == "llama2" || model == "chinese_alpaca_7b";
}

fs::path apart_folder(const std::string& model) {
  if (const char* named = std::getenv("TESSERA_TEST_TOKENIZERS")) return fs::path(named) / model;
  return fs::path(TESSERA_SOURCE_DIR) / "../shared/data/tokenizers" / model;
}

std::string utf8(unsigned code) {
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

/// The tokenizer.json that transformers writes for Qwen2.
std::string qwen_tokenizer_json(const std::string& vocabulary, const std::string& merges) {
  json root = json::parse(R"({"added_tokens": [],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex": ""}},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
    "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "unk_token": null, "fuse_unk": false, "byte_fallback": false}})");
  root["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = text::kQwen2Pattern;
  root["model"]["vocab"] = json::parse(vocabulary);
  root["model"]["merges"] = json::array();
  std::size_t begin = merges.find('\n') + 1;
  for (std::size_t end; (end = merges.find('\n', begin)) != std::string::npos; begin = end + 1) {
    root["model"]["merges"].push_back(merges.substr(begin, end - begin));
  }
  for (const char* content : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    root["added_tokens"].push_back(
        {{"id", 151643 + root["added_tokens"].size()}, {"content", content}, {"normalized", false}, {"special", true}});
  }
  return root.dump();
}

/// Qwen's vocabulary: the 256 bytes as GPT-2 makes them visible (printable ones first), then one token per merge.
std::string qwen_vocabulary(const std::string& merges) {
  std::vector<std::string> tokens;
  std::vector<std::string> hidden;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool visible = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    (visible ? tokens : hidden).push_back(utf8(visible ? byte : 256 + static_cast<unsigned>(hidden.size())));
  }
  tokens.insert(tokens.end(), hidden.begin(), hidden.end());
  std::size_t begin = merges.find('\n') + 1;  // the first line is the version
  while (begin < merges.size()) {
    const std::size_t end = merges.find('\n', begin);
    std::string line = merges.substr(begin, end - begin);
    line.erase(line.find(' '), 1);
    tokens.push_back(std::move(line));
    begin = end + 1;
  }
  json vocabulary = json::object();
  for (std::size_t id = 0; id < tokens.size(); ++id) vocabulary[tokens[id]] = id;
  return vocabulary.dump();
}

}  // namespace

fs::path golden_dir() {
  return fs::path(TESSERA_SOURCE_DIR) / "tests/golden/text";
}

json read_golden(const std::string& name) {
  return json::parse(read_file(golden_dir() / "data" / (name + ".json")));
}

bool have_model(const std::string& model) {
  return !is_apart(model) || fs::exists(apart_folder(model) / "tokenizer.model");
}

std::vector<std::string> available_goldens(std::vector<std::string> names) {
  std::erase_if(names, [](const std::string& name) { return !have_model(read_golden(name).at("model")); });
  return names;
}

std::vector<std::string> available_models(std::vector<std::string> models) {
  std::erase_if(models, [](const std::string& model) { return !have_model(model); });
  return models;
}

void put_model(const std::string& model, const fs::path& folder) {
  fs::create_directories(folder);
  if (model == "none") return;  // the golden brings every file
  const fs::path source = is_apart(model) ? apart_folder(model) : golden_dir() / "models" / model;
  if (model == "qwen") {
    const std::string merges = unpack(source / "merges.txt.gz");
    write_file(folder / "merges.txt", merges);
    write_file(folder / "vocab.json", qwen_vocabulary(merges));
  } else if (model == "qwen_json") {
    const std::string merges = unpack(golden_dir() / "models/qwen/merges.txt.gz");
    write_file(folder / "tokenizer.json", qwen_tokenizer_json(qwen_vocabulary(merges), merges));
  } else if (model == "gpt2_kind") {
    for (const char* file : {"vocab.json", "merges.txt"}) fs::copy_file(source / file, folder / file);
  } else if (model == "gpt_neox_20b") {
    write_file(folder / "tokenizer.json", unpack(source / "tokenizer.json.gz"));
  } else {
    fs::copy_file(source / "tokenizer.model", folder / "tokenizer.model", fs::copy_options::overwrite_existing);
  }
}

void put_golden_folder(const json& golden, const fs::path& folder) {
  put_model(golden.at("model").get<std::string>(), folder);
  for (const auto& [file, content] : golden.at("files").items()) write_file(folder / file, content.dump());
  if (!golden.contains("json_added")) return;
  json root = json::parse(read_file(folder / "tokenizer.json"));
  for (const json& token : golden.at("json_added")) root["added_tokens"].push_back(token);
  write_file(folder / "tokenizer.json", root.dump());
}

text::TokenizerRules golden_rules(const json& golden) {
  text::TokenizerRules rules;
  if (golden.at("add") == json::array({"lisa"})) rules = text::lisa_rules();
  rules.release = golden.at("release") == "4.31" ? text::Release::transformers_4_31 : text::Release::transformers_4_37;
  rules.drop_hash_merges = golden.value("drop_hash_merges", false);
  return rules;
}

text::Tokenizer lisa_tokenizer(const fs::path& folder) {
  put_model("mistral_v1", folder);
  return text::load_tokenizer(folder, text::lisa_rules());
}

}  // namespace tessera::testing_support
