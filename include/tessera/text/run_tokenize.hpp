#pragma once
/// `tessera tokenize`: a JSON list of texts in, their ids out; how a port of the tokenisation is checked.
#include "tessera/text/conversation.hpp"

namespace tessera::text {

struct TokenizeRequest {
  std::filesystem::path model;    ///< model folder
  std::filesystem::path inputs;   ///< JSON list of strings
  std::filesystem::path outputs;  ///< JSON list of objects, one per string
  std::optional<bool> legacy = {};
  std::optional<bool> bos = {};
  std::optional<bool> strip_added_tokens = {};  ///< true: as release 4.31, false: as 4.37
  bool drop_hash_merges = false;
  bool image_token = false;    ///< split at <image>, −200 there
  bool conversations = false;  ///< strings are whole conversations of the template `form`
  std::string form = "";       ///< template's name
  std::optional<std::int64_t> max_length =
      {};                   ///< --model_max_length of the training; default LISA's 512, LLaVA's 2048
  bool strict_mpt = false;  ///< mask mpt conversations as LLaVA's head does
};

/// Writes, per string, {"ids", "pieces", "text"}, or with `conversations` {"input_ids", "labels"} as training sees them
/// before padding. A folder that adds [SEG] is labelled and cut by LISA's rule: <image> is put between <im_start> and
/// <im_end> (where the model uses them and the text does not have them yet), and room is left for the features that
/// config.json's vision tower yields (256, as the reference assumes, where that is not to be found). Any other folder
/// is labelled by LLaVA's. Throws RequestError naming file and position.
void run_tokenize(const TokenizeRequest& request);

/// Features one image becomes, by the folder's config.json: (image_size / patch_size)² of its vision tower's
/// config.json, else by the tower's name (…-patch14-336), else 256.
std::int64_t image_patches_of(const std::filesystem::path& model_folder);

}  // namespace tessera::text
