#pragma once
/// TensorSources made of others: several that act as one, and one under other names. They share what they stand on and
/// copy no data.
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/io/tensor_source.hpp"

namespace tessera::io {

using SourcePtr = std::shared_ptr<const TensorSource>;

/// Each of its tensors is one tensor of one of its sources.
class RoutedSource : public TensorSource {
 public:
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  void read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count, void* out) const override;
  void will_read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count) const override;
  const PackedTensor* packed(const TensorInfo& tensor) const override;
  std::string where(const TensorInfo& tensor) const override;

 protected:
  struct Route {
    SourcePtr source;
    const TensorInfo* original = nullptr;  ///< of the source, which keeps it
  };
  /// Takes the routes in the order of their names.
  void set_routes(std::map<std::string, Route> routes);

 private:
  const Route& route_of(const TensorInfo& tensor) const;
  std::vector<TensorInfo> tensors_;
  std::vector<Route> routes_;
};

/// The union of several sources; a name in more than one comes from the first that has it. LISA takes its language
/// model from one folder, CLIP from another, SAM from a .pth.
class OverlaySource : public RoutedSource {
 public:
  explicit OverlaySource(const std::vector<SourcePtr>& sources);
};

/// A source under other names. `rename` gives the new name, or nothing to leave the tensor out.
/// Throws RequestError when two tensors get one name.
class RenamedSource : public RoutedSource {
 public:
  using Rename = std::function<std::optional<std::string>(std::string_view)>;
  RenamedSource(const SourcePtr& source, const Rename& rename);
};

/// The files of an index (`{"weight_map": {name: file}}`): only what the map names, each from the file it names.
/// Throws RequestError: a file or tensor of the map that is not there, a file name that leaves the folder.
class ShardedSource : public RoutedSource {
 public:
  using Open = std::function<SourcePtr(const std::string& path)>;
  ShardedSource(const std::string& index_path, const Open& open);
};

}  // namespace tessera::io
