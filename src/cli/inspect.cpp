#include <cstdio>
#include <filesystem>

#include "cli/command.hpp"
#include "tessera/core/error.hpp"
#include "tessera/data/inspect.hpp"
#include "tessera/shard/checkpoint.hpp"

namespace tessera::cli {

namespace {

bool is_checkpoint(const std::string& path) {
  namespace fs = std::filesystem;
  if (!fs::is_directory(path)) return false;
  if (fs::absolute(path).lexically_normal().filename().string().starts_with("step-")) return true;
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.path().filename().string().starts_with("rank-")) return true;  // a renamed one
  }
  return false;
}

int inspect_checkpoint(const std::string& path, bool verify) {
  std::printf("%s", shard::describe_checkpoint(path).c_str());
  if (!verify) return 0;
  const auto problems = shard::verify_checkpoint(path);
  if (problems.size() == 1) throw RequestError("{}", problems.front());
  for (const auto& problem : problems) std::fprintf(stderr, "%s\n", problem.c_str());
  if (!problems.empty()) throw RequestError("checkpoint {} is damaged in {} places", path, problems.size());
  std::printf("every checksum is right\n");
  return 0;
}

// Flags that would have no effect.
void check_given(const Options& options, const data::InspectConfig& config, bool checkpoint) {
  const bool shows = config.show || config.sample >= 0;
  const bool sheet = !config.sheet.empty();
  const auto needs = [&](const char* flag, bool has_effect, const char* with) {
    if (options.given(flag) && !has_effect) throw RequestError("--{} has a meaning with {} alone", flag, with);
  };
  for (const char* flag : {"show", "sample", "output_dir", "sheet", "sheet_samples", "seed"}) {
    needs(flag, !checkpoint, "prepared shards");
  }
  needs("output_dir", shows, "--show");
  needs("sheet_samples", sheet, "--sheet");
  needs("seed", (shows && config.sample < 0) || sheet, "a random sample (--show, --sheet)");
}

}  // namespace

int run_inspect(const std::vector<std::string>& args, Session&) {
  data::InspectConfig config;
  Options options("tessera inspect", "What is in prepared shards, or in a checkpoint folder.");
  data::bind(options, config);
  if (!parse(options, args)) return 0;
  const bool checkpoint = is_checkpoint(config.shards);
  check_given(options, config, checkpoint);
  if (checkpoint) return inspect_checkpoint(config.shards, config.verify);
  const auto report = data::run_inspect(config);
  std::printf("%s\n", report.text.c_str());
  for (const auto& picture : report.pictures) std::printf("written: %s\n", picture.c_str());
  for (const auto& fault : report.faults) std::fprintf(stderr, "%s\n", fault.c_str());
  if (!report.faults.empty()) throw RequestError("{} faults in {}", report.faults.size(), config.shards);
  return 0;
}

}  // namespace tessera::cli
