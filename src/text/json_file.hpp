#pragma once
/// Reading small foreign files whole, and JSON among them, with errors that name the file and the place.
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace tessera::text {

/// Bytes of a regular file of at most `limit` bytes. Throws RequestError.
std::string read_file(const std::filesystem::path& path, std::size_t limit = std::size_t{512} << 20);
/// Parses JSON no deeper than 64 levels; `name` stands in errors. Throws RequestError.
nlohmann::json parse_json(std::string_view bytes, const std::filesystem::path& name);
nlohmann::json read_json(const std::filesystem::path& path);

}  // namespace tessera::text
