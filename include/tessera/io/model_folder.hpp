#pragma once
/// Weights wherever users keep them: a folder with safetensors or PyTorch files, sharded or not, an adapter, one file.
#include <array>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "tessera/core/json.hpp"
#include "tessera/io/sources.hpp"

namespace tessera::io {

/// The weights at `path`. A folder: the first there of model.safetensors, model.safetensors.index.json,
/// pytorch_model.bin, pytorch_model.bin.index.json, adapter_model.safetensors, adapter_model.bin (transformers' order).
/// A file: *.index.json, or safetensors or a PyTorch file, told apart by its first bytes. `pytorch_model.bin` may be a
/// folder of shards itself, as DeepSpeed's zero_to_fp32 writes it since 0.15.3.
/// Only headers are read. Throws RequestError: nothing there, a file that is not whole, DeepSpeed's ZeRO shards (with
/// what to do).
SourcePtr open_weights(const std::filesystem::path& path);

/// The file open_weights takes in `folder`; nothing when there is none.
std::optional<std::filesystem::path> find_weights(const std::filesystem::path& folder);

/// LISA v0 keeps parts of the model beside the language model's shards: SAM in pytorch_model-visual_model.bin, the
/// projection of [SEG] in pytorch_model-text_hidden_fcs.bin. (file, what its names begin with inside the model)
inline constexpr std::array<std::pair<const char*, const char*>, 2> kPartsOfLisaV0{
    {{"pytorch_model-visual_model.bin", "visual_model."}, {"pytorch_model-text_hidden_fcs.bin", "text_hidden_fcs."}}};
bool is_part_of_lisa_v0(std::string_view file_name);

/// A folder with config.json and weights.
class ModelFolder {
 public:
  /// Throws RequestError when the folder or its config.json is missing or malformed.
  explicit ModelFolder(std::filesystem::path directory);
  const std::filesystem::path& directory() const noexcept { return directory_; }
  const JsonView& config() const noexcept { return config_; }
  bool has_weights() const { return find_weights(directory_).has_value(); }
  /// Opened anew at each call; throws when the folder has none.
  SourcePtr weights() const { return open_weights(directory_); }
  /// A file beside, such as "tokenizer.model"; nothing when it is not there.
  std::optional<std::filesystem::path> file(const std::string& name) const;

 private:
  std::filesystem::path directory_;
  JsonView config_;
};

}  // namespace tessera::io
