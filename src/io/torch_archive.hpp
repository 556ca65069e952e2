#pragma once
// The two layouts of torch.save, as one: a pickle's tree and where each storage lies in the file.
#include <functional>
#include <map>
#include <string>

#include "io/torch_pickle.hpp"
#include "tessera/core/file.hpp"

namespace tessera::io {

struct TorchArchive {
  std::shared_ptr<PickleArena> arena;  ///< owns the tree
  const PickleNode* root = nullptr;
  std::map<std::string, std::int64_t> storage_offsets;  ///< by key, bytes in the file
};

enum class TorchLayout { none, zip, legacy };
TorchLayout torch_layout(const InputFile& file);
TorchArchive read_torch_zip(const InputFile& file);
TorchArchive read_torch_legacy(const InputFile& file);

}  // namespace tessera::io
