#include "core/options_toml.hpp"

#include <toml++/toml.h>

#include <algorithm>

#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"

namespace tessera::detail {
namespace {

using Kind = RawValue::Kind;

/// Kind and text of a scalar; false for dates and tables.
bool scalar(const toml::node& node, Kind& kind, std::string& text) {
  if (const auto* value = node.as_boolean()) {
    kind = Kind::boolean;
    text = value->get() ? "true" : "false";
  } else if (const auto* integer = node.as_integer()) {
    kind = Kind::integer;
    text = fmt::format("{}", integer->get());
  } else if (const auto* real = node.as_floating_point()) {
    kind = Kind::real;
    text = fmt::format("{}", real->get());
  } else if (const auto* string = node.as_string()) {
    kind = Kind::string;
    text = string->get();
  } else {
    return false;
  }
  return true;
}

RawValue to_raw(const toml::node& node, std::string place) {
  RawValue raw;
  raw.place = std::move(place);
  std::string text;
  if (const auto* array = node.as_array()) {
    raw.kind = Kind::array;
    for (const auto& element : *array) {
      Kind kind{};
      if (!scalar(element, kind, text)) {
        throw RequestError("{}: only texts, numbers, true and false can stand in a list", raw.place);
      }
      raw.texts.push_back(text);
    }
  } else if (scalar(node, raw.kind, text)) {
    raw.texts.push_back(text);
  } else if (node.is_table()) {
    throw RequestError("{}: tables are not used here; all keys stand at the top level", raw.place);
  } else {
    throw RequestError("{}: no option takes a date or a time", raw.place);
  }
  return raw;
}

std::string text_of(const std::string& path) {
  try {
    return read_file(path);
  } catch (const RequestError& error) {
    throw RequestError("--config: {}", error.what());
  }
}

}  // namespace

std::vector<ConfigEntry> read_config(const std::string& path) {
  toml::table table;
  try {
    table = toml::parse(text_of(path), path);
  } catch (const toml::parse_error& error) {
    throw RequestError("--config: {}:{}: {}", path, error.source().begin.line, error.description());
  }
  std::vector<std::pair<std::uint32_t, ConfigEntry>> found;
  for (const auto& [key, node] : table) {
    const auto line = node.source().begin.line;
    const std::string name(key.str());
    found.emplace_back(line, ConfigEntry{name, to_raw(node, fmt::format("{}:{}: {}", path, line, name))});
  }
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<ConfigEntry> entries;
  for (auto& [line, entry] : found) entries.push_back(std::move(entry));
  return entries;
}

}  // namespace tessera::detail
