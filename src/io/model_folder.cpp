#include "tessera/io/model_folder.hpp"

#include <algorithm>
#include <array>

#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/io/quantized_source.hpp"
#include "tessera/io/safetensors.hpp"
#include "tessera/io/torch_file.hpp"

namespace tessera::io {
namespace {

namespace fs = std::filesystem;

constexpr std::array kWeightFiles{"model.safetensors",         "model.safetensors.index.json",
                                  "pytorch_model.bin",         "pytorch_model.bin.index.json",
                                  "adapter_model.safetensors", "adapter_model.bin"};

SourcePtr open_file(const std::string& path) {
  if (path.ends_with(".index.json")) return std::make_shared<ShardedSource>(path, open_file);
  if (is_torch_file(path)) return std::make_shared<TorchFileReader>(path);
  return std::make_shared<SafetensorsReader>(path);
}

SourcePtr open_unpacked(const fs::path& file) {
  return unpack_quantized(open_file(file.string()), outlier_threshold(file.parent_path()));
}

bool is_zero_shard(const fs::path& file) {
  const std::string name = file.filename().string();
  return name.ends_with("_model_states.pt") || name.ends_with("_optim_states.pt");
}

/// DeepSpeed's own checkpoints: `latest` names a folder `global_stepN` of one file per rank, each a slice of
/// everything.
bool holds_zero_shards(const fs::path& folder) {
  if (fs::exists(folder / "zero_to_fp32.py")) return true;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (is_zero_shard(entry.path())) return true;
    if (entry.is_directory() && entry.path().filename().string().starts_with("global_step")) return true;
  }
  return false;
}

[[noreturn]] void refuse_zero_shards(const fs::path& folder) {
  throw RequestError(
      "'{}': these are DeepSpeed's ZeRO shards, slices of weights that only make sense together; consolidate them with "
      "the zero_to_fp32.py that DeepSpeed left beside them (python zero_to_fp32.py . pytorch_model.bin, run where the "
      "file `latest` lies) and pass what it writes",
      folder.string());
}

}  // namespace

std::optional<fs::path> find_weights(const fs::path& folder) {
  for (const char* name : kWeightFiles) {
    if (fs::exists(folder / name)) return folder / name;
  }
  return std::nullopt;
}

SourcePtr open_weights(const fs::path& path) {
  if (!fs::is_directory(path)) {
    if (is_zero_shard(path)) refuse_zero_shards(path);
    return open_unpacked(path);
  }
  const auto found = find_weights(path);
  if (!found) {
    if (holds_zero_shards(path)) refuse_zero_shards(path);
    throw RequestError("'{}': no weights; one of these was expected: {}", path.string(), fmt::join(kWeightFiles, ", "));
  }
  return fs::is_directory(*found) ? open_weights(*found) : open_unpacked(*found);
}

bool is_part_of_lisa_v0(std::string_view file_name) {
  return std::any_of(kPartsOfLisaV0.begin(), kPartsOfLisaV0.end(),
                     [&](const auto& part) { return file_name == part.first; });
}

namespace {

JsonView read_config(const fs::path& directory) {
  if (!fs::is_directory(directory)) throw RequestError("'{}': there is no such folder", directory.string());
  const auto path = directory / "config.json";
  if (!fs::exists(path)) throw RequestError("'{}': no config.json there; is it a model folder?", directory.string());
  JsonView config = read_json(path);
  if (!config.is_object()) throw RequestError("'{}': is not a JSON object", path.string());
  return config;
}

}  // namespace

ModelFolder::ModelFolder(fs::path directory) : directory_(std::move(directory)), config_(read_config(directory_)) {}

std::optional<fs::path> ModelFolder::file(const std::string& name) const {
  const auto path = directory_ / name;
  return fs::exists(path) ? std::optional(path) : std::nullopt;
}

}  // namespace tessera::io
