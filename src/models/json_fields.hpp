#pragma once
// Reading config.json: a key that is there must have the right type and a sane value; the error names the key.
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tessera/core/error.hpp"

namespace tessera::models {

class JsonFields {
 public:
  /// where: for messages, e.g. "config.json" or "config.json: vision_config".
  JsonFields(const nlohmann::json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) throw RequestError("{}: expected an object of settings", where_);
  }

  bool has(const char* key) const { return json_.contains(key) && !json_.at(key).is_null(); }

  /// The product of two such numbers is no overflow.
  static constexpr std::int64_t kMostSize = std::int64_t{1} << 31;
  /// No published model has a tenth of these; more would exhaust memory before any weight is looked for.
  static constexpr std::int64_t kMostLayers = 4096;

  std::int64_t integer(const char* key, std::optional<std::int64_t> fallback, std::int64_t min = 1,
                       std::int64_t max = kMostSize) const {
    if (!has(key)) return required(key, fallback);
    const auto& value = json_.at(key);
    if (!value.is_number_integer() || value.get<std::int64_t>() < min || value.get<std::int64_t>() > max) {
      throw RequestError("{}: '{}' is {}, expected an integer between {} and {}", where_, key, value.dump(), min, max);
    }
    return value.get<std::int64_t>();
  }

  /// How many there are of something that a model is built of one by one.
  std::int64_t layers(const char* key, std::optional<std::int64_t> fallback) const {
    return integer(key, fallback, 1, kMostLayers);
  }

  double number(const char* key, std::optional<double> fallback) const {
    if (!has(key)) return required(key, fallback);
    const auto& value = json_.at(key);
    if (!value.is_number()) throw RequestError("{}: '{}' is {}, expected a number", where_, key, value.dump());
    return value.get<double>();
  }

  bool flag(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    const auto& value = json_.at(key);
    if (!value.is_boolean()) throw RequestError("{}: '{}' is {}, expected true or false", where_, key, value.dump());
    return value.get<bool>();
  }

  std::string text(const char* key, std::optional<std::string> fallback) const {
    if (!has(key)) return required(key, fallback);
    const auto& value = json_.at(key);
    if (!value.is_string()) throw RequestError("{}: '{}' is {}, expected a string", where_, key, value.dump());
    return value.get<std::string>();
  }

  std::vector<std::int64_t> integers(const char* key, std::vector<std::int64_t> fallback) const {
    if (!has(key)) return fallback;
    std::vector<std::int64_t> values;
    const auto& array = json_.at(key);
    bool good = array.is_array();
    if (good) {
      for (const auto& item : array) good = good && item.is_number_integer();
    }
    if (!good) throw RequestError("{}: '{}' is {}, expected a list of integers", where_, key, array.dump());
    for (const auto& item : array) values.push_back(item.get<std::int64_t>());
    return values;
  }

  const nlohmann::json& json() const { return json_; }
  const std::string& where() const { return where_; }

 private:
  template <class T>
  T required(const char* key, std::optional<T> fallback) const {
    if (!fallback) throw RequestError("{}: '{}' is missing", where_, key);
    return *fallback;
  }

  const nlohmann::json& json_;
  std::string where_;
};

/// Throws unless `whole` is a multiple of `part`.
inline void require_divides(const std::string& where, const char* part_name, std::int64_t part, const char* whole_name,
                            std::int64_t whole) {
  if (part <= 0 || whole % part != 0) {
    throw RequestError("{}: {} {} is not a multiple of {} {}", where, whole_name, whole, part_name, part);
  }
}

}  // namespace tessera::models
