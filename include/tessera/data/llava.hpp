#pragma once
/// LLaVA's conversation files: a JSON list of records, each with an image, several images or none, and a dialogue.
/// LLaVA-CC3M-Pretrain-595K's chat.json, LLaVA-Instruct, the v1.5 mix and data of one's own in that form.
///
/// `image` may be a list of paths, one for each `<image>` of the dialogue in order; the reference takes one.
/// Source: haotian-liu/LLaVA llava/train/train.py (LazySupervisedDataset), docs/Finetune_Custom_Data.md.
#include <memory>
#include <string_view>

#include "tessera/data/reader.hpp"

namespace tessera::data {

/// `data_path` is the file; images are relative to `image_folder` (empty: the file's own folder). The source is called
/// `llava/<name>`, by default after the stem of the file. Throws RequestError when the file is missing or no JSON;
/// records that break the format end in problems().
std::unique_ptr<Reader> llava_training(const std::filesystem::path& data_path,
                                       const std::filesystem::path& image_folder, std::string_view name = {});

}  // namespace tessera::data
