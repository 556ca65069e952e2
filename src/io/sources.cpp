#include "tessera/io/sources.hpp"

#include <filesystem>

#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"

namespace tessera::io {

void RoutedSource::set_routes(std::map<std::string, Route> routes) {
  tensors_.reserve(routes.size());
  for (auto& [name, route] : routes) {
    tensors_.push_back(*route.original);
    tensors_.back().name = name;
    routes_.push_back(std::move(route));
  }
}

const RoutedSource::Route& RoutedSource::route_of(const TensorInfo& tensor) const {
  const TensorInfo* own = find(tensor.name);
  if (own == nullptr) throw RequestError("no tensor '{}' in these weights", tensor.name);
  return routes_[static_cast<std::size_t>(own - tensors_.data())];
}

void RoutedSource::read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count, void* out) const {
  const Route& route = route_of(tensor);
  route.source->read(*route.original, begin, count, out);
}

void RoutedSource::will_read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count) const {
  const Route& route = route_of(tensor);
  route.source->will_read(*route.original, begin, count);
}

const PackedTensor* RoutedSource::packed(const TensorInfo& tensor) const {
  const Route& route = route_of(tensor);
  return route.source->packed(*route.original);
}

std::string RoutedSource::where(const TensorInfo& tensor) const {
  const Route& route = route_of(tensor);
  return route.source->where(*route.original);
}

OverlaySource::OverlaySource(const std::vector<SourcePtr>& sources) {
  std::map<std::string, Route> routes;
  for (const auto& source : sources) {
    for (const auto& info : source->tensors()) routes.try_emplace(info.name, Route{source, &info});
  }
  set_routes(std::move(routes));
}

RenamedSource::RenamedSource(const SourcePtr& source, const Rename& rename) {
  std::map<std::string, Route> routes;
  for (const auto& info : source->tensors()) {
    const auto name = rename(info.name);
    if (!name) continue;
    const auto [it, fresh] = routes.try_emplace(*name, Route{source, &info});
    if (!fresh) {
      throw RequestError("'{}': tensors '{}' and '{}' both stand for '{}'", source->where(info),
                         it->second.original->name, info.name, *name);
    }
  }
  set_routes(std::move(routes));
}

ShardedSource::ShardedSource(const std::string& index_path, const Open& open) {
  const JsonView index = read_json(index_path);
  const JsonView map = index.at("weight_map");
  const std::filesystem::path folder = std::filesystem::path(index_path).parent_path();
  std::map<std::string, SourcePtr> files;
  std::map<std::string, Route> routes;
  for (const auto& name : map.keys()) {
    const std::string file = map.text(name);
    if (file.empty() || file == "." || file == ".." || file.find('/') != std::string::npos) {
      throw RequestError("{}: '{}' is not the name of a file beside the index", map.at(name).where(), file);
    }
    auto& source = files[file];
    if (!source) source = open((folder / file).string());
    const TensorInfo* info = source->find(name);
    if (info == nullptr) {
      throw RequestError("'{}': tensor '{}' should be in '{}', which does not have it", index_path, name, file);
    }
    routes.emplace(name, Route{source, info});
  }
  set_routes(std::move(routes));
}

}  // namespace tessera::io
