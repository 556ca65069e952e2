#include <cstdio>
#include <filesystem>

#include "cli/command.hpp"
#include "tessera/core/error.hpp"
#include "tessera/data/inspect.hpp"
#include "tessera/shard/checkpoint.hpp"

namespace tessera::cli {

namespace {

bool is_checkpoint(const std::string& path) {
  if (!std::filesystem::is_directory(path)) return false;
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    if (entry.path().filename().string().starts_with("rank-")) return true;
  }
  return false;
}

int inspect_checkpoint(const std::string& path, bool verify) {
  const auto info = shard::read_manifest(path);
  std::int64_t elements = 0;
  std::printf("checkpoint %s: step %lld, written by %d ranks of tessera %s\n", path.c_str(),
              static_cast<long long>(info.step), info.ranks, info.program.c_str());
  for (const auto& t : info.tensors) {
    std::int64_t n = 1;
    std::string shape;
    for (const auto extent : t.shape) {
      n *= extent;
      shape += (shape.empty() ? "" : " x ") + std::to_string(extent);
    }
    elements += n;
    std::printf("  %-72s %s\n", t.name.c_str(), shape.c_str());
  }
  std::printf("%zu tensors, %lld elements, %.1f MiB of weights and moments; frozen base %016llx; trainer %s\n",
              info.tensors.size(), static_cast<long long>(elements), static_cast<double>(info.bytes) / 1048576.0,
              static_cast<unsigned long long>(info.frozen_digest), info.trainer_state.c_str());
  if (!verify) return 0;
  const auto problems = shard::verify_checkpoint(path);
  for (const auto& problem : problems) std::fprintf(stderr, "%s\n", problem.c_str());
  if (!problems.empty()) throw RequestError("{} is damaged in {} places", path, problems.size());
  std::printf("every checksum is right\n");
  return 0;
}

}  // namespace

int run_inspect(const std::vector<std::string>& args, Session&) {
  data::InspectConfig config;
  Options options("tessera inspect", "What is in prepared shards, or in a checkpoint folder.");
  data::bind(options, config);
  if (!parse(options, args)) return 0;
  if (is_checkpoint(config.shards)) return inspect_checkpoint(config.shards, config.verify);
  const auto report = data::run_inspect(config);
  std::printf("%s\n", report.text.c_str());
  for (const auto& picture : report.pictures) std::printf("written: %s\n", picture.c_str());
  for (const auto& fault : report.faults) std::fprintf(stderr, "%s\n", fault.c_str());
  if (!report.faults.empty()) throw RequestError("{} faults in {}", report.faults.size(), config.shards);
  return 0;
}

}  // namespace tessera::cli
