#pragma once
// What torch.save puts into its pickle beside plain values: tensors over storages.
#include <map>
#include <string>

#include "io/pickle_machine.hpp"

namespace tessera::io {

/// Knows torch's typed storages, _rebuild_tensor, _rebuild_tensor_v2 and _rebuild_parameter. Storages are collected by
/// key.
class TorchHooks : public PickleHooks {
 public:
  bool knows(std::string_view global) const override;
  PickleNode* call(PickleArena& arena, const std::string& global, const PickleNode::Items& arguments) override;
  PickleNode* persistent(PickleArena& arena, const PickleNode& id) override;
  /// All storages the pickle named, with the largest size it gave each.
  const std::map<std::string, PickledStorage>& storages() const noexcept { return storages_; }

 private:
  std::map<std::string, PickledStorage> storages_;
};

/// Throws RequestError when a tensor leaves its storage, or has more elements than it (an expanded view).
void check_tensor(const PickledTensor& tensor, const std::string& origin, const std::string& name);

bool is_contiguous(const PickledTensor& tensor) noexcept;

}  // namespace tessera::io
