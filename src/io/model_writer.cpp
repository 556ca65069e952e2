#include "tessera/io/model_writer.hpp"

#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"

namespace tessera::io {
namespace {

std::int64_t bytes_of(const TensorInfo& info) {
  const auto numel = checked_numel(info.shape);
  if (!numel) throw RunError("tensor '{}': shape {}", info.name, shape_text(info.shape));
  return *numel * static_cast<std::int64_t>(size_of(info.type));
}

bool all_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == text.npos;
}

/// "model.safetensors" or "model-00001-of-00002.safetensors", of any count.
bool is_weight_file(std::string_view name, std::string_view stem) {
  constexpr std::string_view kSuffix = ".safetensors";
  if (!name.starts_with(stem) || !name.ends_with(kSuffix) || name.size() < stem.size() + kSuffix.size()) return false;
  const auto middle = name.substr(stem.size(), name.size() - stem.size() - kSuffix.size());
  if (middle.empty()) return true;
  const auto of = middle.find("-of-");
  return middle[0] == '-' && of != middle.npos && of > 1 && all_digits(middle.substr(1, of - 1)) &&
         all_digits(middle.substr(of + 4));
}

}  // namespace

std::int64_t shard_bytes_from_text(std::string_view text) {
  constexpr std::array kUnits{std::pair{std::string_view(""), std::int64_t{1}},
                              std::pair{std::string_view("KB"), std::int64_t{1000}},
                              std::pair{std::string_view("MB"), std::int64_t{1000000}},
                              std::pair{std::string_view("GB"), std::int64_t{1000000000}},
                              std::pair{std::string_view("KiB"), std::int64_t{1} << 10},
                              std::pair{std::string_view("MiB"), std::int64_t{1} << 20},
                              std::pair{std::string_view("GiB"), std::int64_t{1} << 30}};
  std::int64_t number = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  for (const auto& [name, bytes] : kUnits) {
    if (problem == std::errc() && unit == name && number > 0 && number <= INT64_MAX / bytes) return number * bytes;
  }
  throw RequestError("a shard size cannot be '{}'; write bytes or a number with KB, MB, GB, KiB, MiB or GiB", text);
}

ShardPlan plan_shards(const std::vector<TensorInfo>& table, std::int64_t shard_bytes, const std::string& stem) {
  ShardPlan plan;
  plan.files.emplace_back();
  std::set<std::string_view> names;
  for (const auto& info : table) {
    if (!names.insert(info.name).second) throw RunError("the tensor '{}' stands twice in the table to save", info.name);
    const std::int64_t bytes = bytes_of(info);
    if (!plan.files.back().table.empty() && plan.files.back().bytes + bytes > shard_bytes) plan.files.emplace_back();
    plan.files.back().table.push_back(info);
    plan.files.back().bytes += bytes;
    plan.total_bytes += bytes;
  }
  const std::size_t count = plan.files.size();
  for (std::size_t i = 0; i < count; ++i) {
    plan.files[i].name =
        count == 1 ? stem + ".safetensors" : fmt::format("{}-{:05}-of-{:05}.safetensors", stem, i + 1, count);
  }
  return plan;
}

ModelWriter::ModelWriter(std::filesystem::path directory, const std::vector<TensorInfo>& table,
                         std::int64_t shard_bytes, Metadata metadata, std::string stem)
    : directory_(std::move(directory)),
      metadata_(std::move(metadata)),
      stem_(std::move(stem)),
      plan_(plan_shards(table, shard_bytes, stem_)),
      shards_(plan_.files.size()) {
  make_directories(directory_);
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    for (const auto& info : plan_.files[i].table) {
      shards_[i].missing += info.numel();
      shard_of_.emplace(info.name, i);
    }
  }
}

void ModelWriter::write(std::string_view name, std::int64_t begin, std::int64_t count, const void* data) {
  const auto it = shard_of_.find(name);
  if (it == shard_of_.end()) throw RunError("'{}': tensor '{}' is not in the table to save", directory_.string(), name);
  Shard& shard = shards_[it->second];
  const auto& file = plan_.files[it->second];
  if (shard.done && count > 0) throw RunError("'{}': tensor '{}' is already whole", file.name, name);
  if (!shard.writer && !shard.done) shard.writer.emplace(directory_ / file.name, file.table, metadata_);
  if (count == 0) return;
  shard.writer->write(name, begin, count, data);
  shard.missing -= count;
  if (shard.missing == 0) {
    shard.writer->commit();
    shard.writer.reset();
    shard.done = true;
  }
}

void ModelWriter::commit() {
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    Shard& shard = shards_[i];
    if (shard.done) continue;
    // Nothing was written: fine only where there is nothing to write. Otherwise the writer names the tensor.
    if (!shard.writer) shard.writer.emplace(directory_ / plan_.files[i].name, plan_.files[i].table, metadata_);
    shard.writer->commit();
    shard.writer.reset();
    shard.done = true;
  }
  if (plan_.files.size() > 1) {
    nlohmann::json index;
    index["metadata"]["total_size"] = plan_.total_bytes;
    for (const auto& file : plan_.files) {
      for (const auto& info : file.table) index["weight_map"][info.name] = file.name;
    }
    write_json(directory_ / (stem_ + ".safetensors.index.json"), index);
  }
  remove_stale();
}

void ModelWriter::remove_stale() const {
  std::set<std::string> kept;
  for (const auto& file : plan_.files) kept.insert(file.name);
  for (const auto& path : list_files(directory_, {".safetensors"})) {
    const std::string name = path.filename().string();
    if (is_weight_file(name, stem_) && !kept.contains(name)) std::filesystem::remove(path);
  }
  if (plan_.files.size() == 1) std::filesystem::remove(directory_ / (stem_ + ".safetensors.index.json"));
}

}  // namespace tessera::io
