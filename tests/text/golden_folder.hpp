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
/// False when the model may not be redistributed and is not on this machine; `reason` then says where it was looked
/// for.
bool have_model(const std::string& model, std::string& reason);
/// Copies (unpacks) the files of `model` into `folder`.
void put_model(const std::string& model, const std::filesystem::path& folder);
/// put_model and the golden's JSON files.
void put_golden_folder(const nlohmann::json& golden, const std::filesystem::path& folder);
/// Rules that the golden was made under.
text::TokenizerRules golden_rules(const nlohmann::json& golden);
/// A mistral_v1 folder with LISA's three tokens, loaded as LISA does.
text::Tokenizer lisa_tokenizer(const std::filesystem::path& folder);

}  // namespace tessera::testing_support
