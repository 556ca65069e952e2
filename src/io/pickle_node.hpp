#pragma once
// What the pickle machine builds: nodes in an arena, so that neither a cycle nor deep nesting can hurt whoever frees
// them.
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "tessera/io/pickle.hpp"
#include "tessera/io/tensor_source.hpp"

namespace tessera::io {

/// A class or function by its name. Only those the hooks know are ever built.
struct PickledGlobal {
  std::string name;  ///< "collections.OrderedDict"
};

/// torch's storage: a run of elements that tensors view, named by a key of the archive.
struct PickledStorage {
  Elem type = Elem::f32;
  std::string key;
  std::int64_t numel = 0;
};

struct PickledTensor {
  const PickledStorage* storage = nullptr;
  std::int64_t offset = 0;  ///< elements into the storage
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  ///< elements
};

/// An integer beyond 64 bits: nobody here needs one, but reading past it is harmless.
struct PickledBigInteger {};

struct PickleNode {
  using Items = std::vector<PickleNode*>;  ///< a dict holds key, value, key, value, …
  PickleKind kind = PickleKind::none;
  std::uint8_t state = 0;   ///< of the walk that looks for cycles
  std::int32_t height = 0;  ///< levels below and including this one
  std::int64_t weight = 0;  ///< values met by a walk from here
  std::variant<std::monostate, bool, std::int64_t, double, std::string, Items, PickledGlobal,
               std::unique_ptr<const PickledStorage>, std::unique_ptr<const PickledTensor>, PickledBigInteger>
      data;

  Items* items() noexcept { return std::get_if<Items>(&data); }
  const Items* items() const noexcept { return std::get_if<Items>(&data); }
};

class PickleArena {
 public:
  explicit PickleArena(std::string origin, std::int64_t max_values) : origin_(std::move(origin)), left_(max_values) {}
  const std::string& origin() const noexcept { return origin_; }
  /// Throws RequestError when the pickle builds too many values.
  template <class T>
  PickleNode* make(PickleKind kind, T&& data) {
    spend(1);
    PickleNode& node = nodes_.emplace_back();
    node.kind = kind;
    node.data = std::forward<T>(data);
    return &node;
  }

  /// Counts `values` that are copied against the same limit.
  void spend(std::int64_t values);

 private:
  std::string origin_;
  std::int64_t left_;
  std::deque<PickleNode> nodes_;
};

}  // namespace tessera::io
