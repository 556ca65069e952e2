#pragma once
/// VQA: LLaVA conversations about photographs of COCO, `llava_dataset/<name>.json` with images in `coco/train2017/`.
/// A whole dialogue is one conversation; there are no masks.
/// Source: dvlab-research/LISA utils/vqa_dataset.py.
#include <memory>
#include <string_view>

#include "tessera/data/reader.hpp"

namespace tessera::data {

/// `name` is the stem of the JSON file, e.g. "llava_instruct_150k". Throws RequestError when the file is missing or no
/// JSON; records that break the format end in problems().
std::unique_ptr<Reader> vqa_training(const std::filesystem::path& dataset_dir, std::string_view name);

}  // namespace tessera::data
