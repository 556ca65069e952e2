#include "shard/checkpoint_places.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>

#include <cerrno>
#include <charconv>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "shard/checkpoint_format.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/shard/checkpoint.hpp"

namespace tessera::shard {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPartial = ".partial";  // being written
constexpr std::string_view kAside = ".old";        // gives way to a new one of the same step; still the only whole one
constexpr std::string_view kDying = ".dying";      // being removed

fs::path hidden(const fs::path& root, std::int64_t step, std::string_view ending) {
  return root / fmt::format(".step-{}{}", step, ending);
}

std::optional<std::int64_t> step_of(std::string_view name, std::string_view prefix, std::string_view ending) {
  if (!name.starts_with(prefix) || !name.ends_with(ending) || name.size() <= prefix.size() + ending.size()) return {};
  name.remove_prefix(prefix.size());
  name.remove_suffix(ending.size());
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  if (error != std::errc() || end != name.data() + name.size() || step < 0) return {};
  return step;
}

std::map<std::int64_t, fs::path> whole_ones(const fs::path& root) {
  std::map<std::int64_t, fs::path> by_step;
  if (!fs::is_directory(root)) return by_step;
  for (const auto& entry : fs::directory_iterator(root)) {
    const auto step = step_of(entry.path().filename().string(), "step-", "");
    if (step && entry.is_directory() && fs::exists(entry.path() / format::kManifest)) by_step[*step] = entry.path();
  }
  return by_step;
}

void rename_folder(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) throw RunError("cannot rename '{}' to '{}': {}", from.string(), to.string(), error.message());
}

void remove_folder(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) throw RunError("cannot remove '{}': {}", path.string(), error.message());
}

}  // namespace

fs::path final_path(const fs::path& root, std::int64_t step) {
  return root / fmt::format("step-{}", step);
}

fs::path partial_path(const fs::path& root, std::int64_t step) {
  return hidden(root, step, kPartial);
}

void put_in_place(const fs::path& root, std::int64_t step) {
  const fs::path partial = partial_path(root, step);
  const fs::path final_folder = final_path(root, step);
  const fs::path aside = hidden(root, step, kAside);
  if (!fs::exists(final_folder)) {
    rename_folder(partial, final_folder);
    sync_directory(root);
    return;
  }
  if (::renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, final_folder.c_str(), RENAME_EXCHANGE) == 0) {
    sync_directory(root);
    remove_folder(partial);
    return;
  }
  if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) {
    throw RunError("cannot exchange '{}' and '{}': {}", partial.string(), final_folder.string(), system_message(errno));
  }
  remove_folder(aside);
  rename_folder(final_folder, aside);
  rename_folder(partial, final_folder);
  sync_directory(root);
  remove_folder(aside);
}

void link_folder(const fs::path& from, const fs::path& to) {
  remove_folder(to);
  make_directories(to);
  for (const auto& file : list_files(from)) {
    const fs::path name = to / file.filename();
    std::error_code error;
    fs::create_hard_link(file, name, error);
    if (!error) continue;
    PartialPath copy(name);
    fs::copy_file(file, copy.path(), error);
    if (error) throw RunError("cannot copy '{}' to '{}': {}", file.string(), name.string(), error.message());
    copy.commit();
  }
  sync_directory(to);
}

std::vector<fs::path> list_checkpoints(const fs::path& root) {
  std::vector<fs::path> out;
  for (auto& [step, path] : whole_ones(root)) out.push_back(path);
  return out;
}

void tidy_checkpoints(const fs::path& root) {
  if (!fs::is_directory(root)) return;
  std::vector<fs::path> left;
  for (const auto& entry : fs::directory_iterator(root)) {
    const auto name = entry.path().filename().string();
    if (const auto step = step_of(name, ".step-", kAside); step && !fs::exists(final_path(root, *step))) {
      rename_folder(entry.path(), final_path(root, *step));
      continue;
    }
    for (const auto ending : {kPartial, kAside, kDying}) {
      if (step_of(name, ".step-", ending)) left.push_back(entry.path());
    }
  }
  for (const auto& path : left) remove_folder(path);
  sync_directory(root);
}

void prune_checkpoints(const fs::path& root, std::int64_t step, std::int64_t keep) {
  const auto all = whole_ones(root);
  std::vector<std::int64_t> going;
  std::int64_t kept = 0;
  for (auto it = all.rbegin(); it != all.rend(); ++it) {
    if (it->first > step || ++kept > keep) going.push_back(it->first);
  }
  for (const auto old : going) {
    const fs::path dying = hidden(root, old, kDying);
    remove_folder(dying);
    rename_folder(final_path(root, old), dying);  // first: a folder that is half removed must not look whole
    remove_folder(dying);
  }
}

}  // namespace tessera::shard
