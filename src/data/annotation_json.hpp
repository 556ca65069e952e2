#pragma once
// Annotation files: JSON of people's making, read with the file and the place in every complaint.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/data/problem.hpp"

namespace tessera::data {

/// The file as JSON: UTF-8, or cp1252 where it is no UTF-8 (as LISA's reader falls back).
/// Throws BrokenSample naming line and column.
nlohmann::json read_annotation_json(const std::filesystem::path& path);

/// Calls `use` for each element of the file's top-level list, holding one at a time. An element that is no object is
/// passed too. Throws BrokenSample like read_annotation_json, and when the top is no list.
void for_each_record(const std::filesystem::path& path,
                     const std::function<void(std::int64_t number, const nlohmann::json& record)>& use);

/// The same with the record's place, "[12]"; an element that `use` finds broken goes into `problems`, and the next
/// follows.
void for_each_sound_record(const std::filesystem::path& path, std::vector<Problem>& problems,
                           const std::function<void(const std::string& where, const nlohmann::json& record)>& use);

/// Calls `use` for each element of the lists in the file's top-level object ("images", "annotations", …), holding one
/// at a time.
void for_each_listed(
    const std::filesystem::path& path,
    const std::function<void(const std::string& list, std::int64_t number, const nlohmann::json& record)>& use);

/// The value as what it must be. `where` names it, "" for the whole file. Throws BrokenSample.
const nlohmann::json& as_array(const nlohmann::json& value, const std::filesystem::path& path,
                               const std::string& where);
const nlohmann::json& as_object(const nlohmann::json& value, const std::filesystem::path& path,
                                const std::string& where);
std::string as_string(const nlohmann::json& value, const std::filesystem::path& path, const std::string& where);
double as_number(const nlohmann::json& value, const std::filesystem::path& path, const std::string& where);
bool as_bool(const nlohmann::json& value, const std::filesystem::path& path, const std::string& where);

/// A field that must be there.
const nlohmann::json& field(const nlohmann::json& object, std::string_view name, const std::filesystem::path& path,
                            const std::string& where);
std::string string_field(const nlohmann::json& object, std::string_view name, const std::filesystem::path& path,
                         const std::string& where);

/// Text without white space at its ends (str.strip() over ASCII).
std::string_view strip(std::string_view text);
/// ASCII lower case.
std::string ascii_lower(std::string_view text);
/// cp1252 bytes as UTF-8; false when a byte has no character there.
bool from_cp1252(std::string_view bytes, std::string& utf8);
bool is_utf8(std::string_view text);

}  // namespace tessera::data
