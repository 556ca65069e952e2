#pragma once
/// JSON from files nobody vouches for: bounded in size and depth, read by getters whose errors name file and key path,
/// e.g. `config.json: vision_config.hidden_size is "big", a whole number is expected`.
///
/// A JsonView shares ownership of its document, so it may outlive the one it came from. Throws RequestError throughout.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

struct JsonLimits {
  std::int64_t max_bytes = std::int64_t{1} << 28;
  int max_depth = 64;
};

class JsonView {
 public:
  JsonView(std::shared_ptr<const nlohmann::json> node, std::string origin);

  bool is_object() const noexcept;
  bool is_array() const noexcept;
  bool is_text() const noexcept;
  bool is_number() const noexcept;
  bool is_null() const noexcept;
  std::size_t size() const noexcept;      ///< members or elements; 0 for anything else
  std::vector<std::string> keys() const;  ///< of an object, sorted
  bool has(std::string_view key) const;   ///< there and not null

  JsonView at(std::string_view key) const;
  JsonView at(std::size_t index) const;

  /// This value; the error names what is there and what was expected. A whole number may be written 3 or 3.0.
  std::int64_t integer() const;
  double real() const;
  bool boolean() const;
  std::string text() const;
  std::vector<std::int64_t> integers() const;
  std::vector<double> reals() const;
  std::vector<std::string> texts() const;

  std::int64_t integer(std::string_view key) const { return at(key).integer(); }
  double real(std::string_view key) const { return at(key).real(); }
  bool boolean(std::string_view key) const { return at(key).boolean(); }
  std::string text(std::string_view key) const { return at(key).text(); }
  /// The fallback stands for a key that is missing or null, never for one of the wrong type.
  std::int64_t integer(std::string_view key, std::int64_t fallback) const;
  double real(std::string_view key, double fallback) const;
  bool boolean(std::string_view key, bool fallback) const;
  std::string text(std::string_view key, std::string_view fallback) const;

  /// "config.json: vision_config.hidden_size"
  std::string where() const;
  const nlohmann::json& raw() const noexcept { return *node_; }

 private:
  struct Place;
  JsonView(std::shared_ptr<const nlohmann::json> node, std::shared_ptr<const Place> place);
  JsonView child(const nlohmann::json& node, std::string step) const;
  [[noreturn]] void expected(std::string_view what) const;
  std::shared_ptr<const nlohmann::json> node_;
  std::shared_ptr<const Place> place_;
};

/// `origin` names the text in messages. Throws RequestError with line and column where it does not parse.
JsonView parse_json(std::string_view text, std::string origin, JsonLimits limits = {});
JsonView read_json(const std::filesystem::path& path, JsonLimits limits = {});
/// Writes by AtomicFile, two blanks per level, as Python's json.dump(indent=2).
void write_json(const std::filesystem::path& path, const nlohmann::json& value);

}  // namespace tessera
