#pragma once
/// The processor of pictures that lies beside a model or a vision tower, as transformers saves it: a file of its own,
/// preprocessor_config.json, or since 5.0 a part of processor_config.json, {"image_processor": {…}}, which counts first
/// there too.
#include <filesystem>
#include <optional>

#include "tessera/image/preprocess.hpp"

namespace tessera::image {

struct FolderProcessor {
  std::filesystem::path file;
  ClipImageConfig clip;
};

/// Nothing when no such file tells. Throws RequestError naming the file, as clip_config_from_json does.
std::optional<FolderProcessor> find_processor(const std::filesystem::path& folder);

}  // namespace tessera::image
