#pragma once
/// LisaFolder: what a model folder says of a LISA (or of the LLaVA that becomes one), before any weight is read.
/// The layout is that of the recorded-run contract: config.json with mm_vision_tower, tokenizer files beside it,
/// weights under the reference's names; CLIP from the weights or from the tower's folder, SAM from the weights or from
/// a file.
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tessera/io/sources.hpp"
#include "tessera/models/lisa.hpp"
#include "tessera/text/tokenizer.hpp"

namespace tessera::models {

struct LisaFolderRequest {
  std::filesystem::path folder;
  std::string vision_tower;       ///< overrides mm_vision_tower; empty: as the config says
  std::string vision_pretrained;  ///< SAM weights; empty: the folder's own
  std::string hub_dir;            ///< where names that are no folders are looked up
};

struct LisaFolder {
  std::filesystem::path folder;
  std::filesystem::path tower;  ///< the vision tower's folder, absolute; empty: a built-in tower
  std::filesystem::path sam;    ///< SAM's file or folder; empty: the model folder's own weights
  nlohmann::json config;        ///< config.json
  LisaConfig lisa;              ///< seg_token_id set; vocabulary as large as the tokenizer needs
  bool finished = false;        ///< the config marks a finished LISA (train_mask_decoder): nothing may be missing
};

/// Throws RequestError naming the file or the flag that would mend it.
LisaFolder read_lisa_folder(const LisaFolderRequest& request);

/// The folder's tokenizer with [SEG] and, where the config uses them, <im_start> and <im_end>.
text::Tokenizer load_lisa_tokenizer(const LisaFolder& folder);

/// All weights under the layout's names: the folder's own first (prefixes of PEFT and DeepSpeed removed; v0's `lm.` and
/// its files pytorch_model-visual_model.bin and pytorch_model-text_hidden_fcs.bin as well), then CLIP's and SAM's. A
/// folder without any weights gives an empty source.
io::SourcePtr open_lisa_weights(const LisaFolder& folder);

/// Weights that a LLaVA base cannot have and that are then drawn: text_hidden_fcs and the adapters.
bool may_be_new(const LisaFolder& folder, const nn::ParamState& param);

}  // namespace tessera::models
