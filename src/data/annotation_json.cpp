#include "data/annotation_json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "tessera/core/file.hpp"

namespace tessera::data {
namespace {

using nlohmann::json;

/// Code points of bytes 0x80 … 0x9f in cp1252; 0 where there is none.
constexpr std::array<std::uint16_t, 32> kCp1252 = {0x20ac, 0,      0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021,
                                                   0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0,      0x017d, 0,
                                                   0,      0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014,
                                                   0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0,      0x017e, 0x0178};

[[noreturn]] void broken(const std::filesystem::path& path, const std::string& where, std::string why) {
  throw BrokenSample({path.string(), where, std::move(why)});
}

/// The largest annotation file known is PACO-LVIS's, well below.
constexpr std::int64_t kLongestFile = std::int64_t{8} << 30;

std::string place_of(std::string_view text, std::size_t byte) {
  byte = std::min(byte, text.size());
  const auto before = text.substr(0, byte);
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const auto newline = before.rfind('\n');
  return fmt::format("line {}, column {}", line, newline == std::string_view::npos ? byte : byte - newline - 1);
}

}  // namespace

bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const int more = lead < 0x80                   ? 0
                     : lead >= 0xc2 && lead < 0xe0 ? 1
                     : (lead & 0xf0) == 0xe0       ? 2
                     : lead >= 0xf0 && lead < 0xf5 ? 3
                                                   : -1;
    if (more < 0 || i + static_cast<std::size_t>(more) >= text.size()) return false;
    std::uint32_t code = more == 0 ? lead : lead & (0x3fU >> more);
    for (int k = 1; k <= more; ++k) {
      const auto next = static_cast<unsigned char>(text[i + static_cast<std::size_t>(k)]);
      if ((next & 0xc0) != 0x80) return false;
      code = code << 6 | (next & 0x3f);
    }
    const bool overlong = (more == 2 && code < 0x800) || (more == 3 && code < 0x10000);
    if (overlong || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
    i += static_cast<std::size_t>(more) + 1;
  }
  return true;
}

bool from_cp1252(std::string_view bytes, std::string& utf8) {
  utf8.clear();
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    const std::uint32_t code = byte >= 0x80 && byte < 0xa0 ? kCp1252[byte - 0x80U] : byte;
    if (code == 0 && byte != 0) return false;
    if (code < 0x80) {
      utf8.push_back(static_cast<char>(code));
    } else if (code < 0x800) {
      utf8.push_back(static_cast<char>(0xc0 | code >> 6));
      utf8.push_back(static_cast<char>(0x80 | (code & 0x3f)));
    } else {
      utf8.push_back(static_cast<char>(0xe0 | code >> 12));
      utf8.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3f)));
      utf8.push_back(static_cast<char>(0x80 | (code & 0x3f)));
    }
  }
  return true;
}

std::string_view strip(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\n\r\f\v";
  const auto first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

std::string ascii_lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

namespace {

std::string annotation_text(const std::filesystem::path& path) {
  std::string text;
  try {
    text = read_file(path, kLongestFile);
  } catch (const RequestError& error) {
    broken(path, "", error.what());
  }
  if (text.empty()) broken(path, "", "the file is empty");
  if (is_utf8(text)) return text;
  std::string utf8;
  if (!from_cp1252(text, utf8)) broken(path, "", "neither UTF-8 nor cp1252");
  return utf8;
}

constexpr int kDeepest = 64;  ///< of nested lists and objects; no format has ten

json parse(const std::filesystem::path& path, const json::parser_callback_t& callback = nullptr) {
  const auto text = annotation_text(path);
  const auto guarded = [&](int depth, json::parse_event_t event, json& value) {
    const bool opens = event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
    if (opens && depth >= kDeepest) broken(path, "", fmt::format("JSON nested deeper than {}", kDeepest));
    return callback == nullptr || callback(depth, event, value);
  };
  try {
    return json::parse(text, guarded);
  } catch (const json::parse_error& error) {
    broken(path, place_of(text, error.byte == 0 ? 0 : error.byte - 1), "not JSON: " + std::string(error.what()));
  } catch (const json::exception& error) {  // a number that no double holds
    broken(path, "", "not JSON: " + std::string(error.what()));
  }
}

/// Whether the parser has just completed a value: an object, a list, or a plain one.
bool completes(json::parse_event_t event) {
  return event == json::parse_event_t::object_end || event == json::parse_event_t::array_end ||
         event == json::parse_event_t::value;
}

}  // namespace

json read_annotation_json(const std::filesystem::path& path) {
  return parse(path);
}

void for_each_record(const std::filesystem::path& path, const std::function<void(std::int64_t, const json&)>& use) {
  std::int64_t number = 0;
  const auto top = parse(path, [&](int depth, json::parse_event_t event, json& value) {
    if (depth != 1 || !completes(event)) return true;
    use(number++, value);
    return false;  // dropped at once
  });
  as_array(top, path, "");
}

void for_each_sound_record(const std::filesystem::path& path, std::vector<Problem>& problems,
                           const std::function<void(const std::string&, const json&)>& use) {
  for_each_record(path, [&](std::int64_t number, const json& record) {
    try {
      use("[" + std::to_string(number) + "]", record);
    } catch (const BrokenSample& broken) {
      problems.push_back(broken.problem());
    }
  });
}

void for_each_listed(const std::filesystem::path& path,
                     const std::function<void(const std::string&, std::int64_t, const json&)>& use) {
  std::string list;
  std::int64_t number = 0;
  const auto top = parse(path, [&](int depth, json::parse_event_t event, json& value) {
    if (depth == 1 && event == json::parse_event_t::key) {
      list = value.get<std::string>();
      number = 0;
    }
    if (depth != 2 || !completes(event)) return true;
    use(list, number++, value);
    return false;
  });
  as_object(top, path, "");
}

const json& as_array(const json& value, const std::filesystem::path& path, const std::string& where) {
  if (!value.is_array()) broken(path, where, fmt::format("expected a list, found {}", value.type_name()));
  return value;
}

const json& as_object(const json& value, const std::filesystem::path& path, const std::string& where) {
  if (!value.is_object()) broken(path, where, fmt::format("expected an object, found {}", value.type_name()));
  return value;
}

std::string as_string(const json& value, const std::filesystem::path& path, const std::string& where) {
  if (!value.is_string()) broken(path, where, fmt::format("expected a text, found {}", value.type_name()));
  return value.get<std::string>();
}

double as_number(const json& value, const std::filesystem::path& path, const std::string& where) {
  if (!value.is_number()) broken(path, where, fmt::format("expected a number, found {}", value.type_name()));
  return value.get<double>();
}

bool as_bool(const json& value, const std::filesystem::path& path, const std::string& where) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_integer()) return value.get<std::int64_t>() != 0;
  broken(path, where, fmt::format("expected true or false, found {}", value.type_name()));
}

const json& field(const json& object, std::string_view name, const std::filesystem::path& path,
                  const std::string& where) {
  const auto found = as_object(object, path, where).find(name);
  if (found == object.end()) broken(path, where, fmt::format("no field '{}'", name));
  return *found;
}

std::string string_field(const json& object, std::string_view name, const std::filesystem::path& path,
                         const std::string& where) {
  return as_string(field(object, name, path, where), path,
                   where.empty() ? std::string(name) : where + "." + std::string(name));
}

}  // namespace tessera::data
