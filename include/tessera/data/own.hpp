#pragma once
/// Data of one's own: a folder with `train.json` (and `val.json`) beside images and masks. A record has an image and
/// questions about it; masks are PNG files, run lengths or polygons. Source of the fields: datasets/own.md.
#include <memory>
#include <string_view>

#include "tessera/data/reader.hpp"

namespace tessera::data {

/// Training samples of `folder`/train.json: for each draw up to `questions` of an image's questions. The source is
/// called `own/<name of the folder>`. Throws RequestError when the file is missing or no JSON; records that break the
/// format end in problems().
std::unique_ptr<Reader> own_training(const std::filesystem::path& folder, std::int64_t questions);

/// Validation samples of `folder`/val.json: all questions of an image, in order, in one wording each.
std::unique_ptr<Reader> own_validation(const std::filesystem::path& folder);

}  // namespace tessera::data
