#include "text/json_file.hpp"

#include <fstream>
#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"

namespace tessera::text {

std::string read_file(const std::filesystem::path& path, std::size_t limit) {
  std::error_code code;
  if (!std::filesystem::is_regular_file(path, code)) throw RequestError("text: '{}' is no file", path.string());
  const auto size = std::filesystem::file_size(path, code);
  if (code) throw RequestError("text: '{}' cannot be read: {}", path.string(), code.message());
  if (size > limit) {
    throw RequestError("text: '{}' has {} bytes, which no tokenizer file has (limit {})", path.string(), size, limit);
  }
  std::ifstream in(path, std::ios::binary);
  std::string bytes(static_cast<std::size_t>(size), '\0');
  if (!in.read(bytes.data(), static_cast<std::streamsize>(size)) && size != 0) {
    throw RequestError("text: '{}' cannot be read to its end", path.string());
  }
  return bytes;
}

nlohmann::json parse_json(std::string_view bytes, const std::filesystem::path& name) {
  constexpr int kMaxDepth = 64;
  const auto watch_depth = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kMaxDepth) throw RequestError("text: '{}': JSON nested deeper than {}", name.string(), kMaxDepth);
    return true;
  };
  try {
    return nlohmann::json::parse(bytes.begin(), bytes.end(), watch_depth);
  } catch (const nlohmann::json::exception& e) {
    throw RequestError("text: '{}' is not valid JSON: {}", name.string(), e.what());
  }
}

nlohmann::json read_json(const std::filesystem::path& path) {
  return parse_json(read_file(path), path);
}

}  // namespace tessera::text
