#include "tessera/image/processor.hpp"

#include <nlohmann/json.hpp>

#include "tessera/core/file.hpp"
#include "tessera/core/json.hpp"

namespace tessera::image {

std::optional<FolderProcessor> find_processor(const std::filesystem::path& folder) {
  const auto whole = folder / "processor_config.json";
  if (std::filesystem::exists(whole)) {
    const JsonView json = read_json(whole);
    constexpr const char* kPart = "image_processor";
    if (json.is_object() && json.raw().contains(kPart))
      return FolderProcessor{whole, clip_config_from_json(json.raw().at(kPart).dump(), whole.string())};
  }
  const auto own = folder / "preprocessor_config.json";
  if (!std::filesystem::exists(own)) return std::nullopt;
  return FolderProcessor{own, clip_config_from_json(read_file(own), own.string())};
}

}  // namespace tessera::image
