#pragma once
/// Model folders for tests, built from tests/golden/text: the model's files and what a golden puts beside them.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "support/support.hpp"
#include "tessera/text/tokenizer.hpp"

namespace tessera::testing_support {

std::filesystem::path golden_dir();
nlohmann::json read_golden(const std::string& name);
/// Whether the model's files are on this machine: always, but for LLaMA's own and what extends it, which may not be
/// redistributed.
bool have_model(const std::string& model);
/// The names among `names` whose golden's model is there.
std::vector<std::string> available_goldens(std::vector<std::string> names);
std::vector<std::string> available_models(std::vector<std::string> models);
/// Copies (unpacks) the files of `model` into `folder`.
void put_model(const std::string& model, const std::filesystem::path& folder);
/// put_model and the golden's JSON files.
void put_golden_folder(const nlohmann::json& golden, const std::filesystem::path& folder);
/// Rules that the golden was made under.
text::TokenizerRules golden_rules(const nlohmann::json& golden);
/// A mistral_v1 folder with LISA's three tokens, loaded as LISA does.
text::Tokenizer lisa_tokenizer(const std::filesystem::path& folder);

}  // namespace tessera::testing_support
