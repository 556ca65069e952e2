#pragma once
// Folders of checkpoints: names, and the renames that make one appear whole or not at all. For one rank.
#include <cstdint>
#include <filesystem>

namespace tessera::shard {

std::filesystem::path final_path(const std::filesystem::path& root, std::int64_t step);
std::filesystem::path partial_path(const std::filesystem::path& root, std::int64_t step);

/// Gives the synced partial folder its final name. One that has the name already gives way in the same instant, so that
/// at every moment one of them is whole and has the name (or, where the file system cannot exchange two names, is put
/// back by tidy_checkpoints).
void put_in_place(const std::filesystem::path& root, std::int64_t step);

/// Makes `to` a folder with the same files as `from`: hard links, or synced copies where those cannot be.
void link_folder(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace tessera::shard
