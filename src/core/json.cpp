#include "tessera/core/json.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"

namespace tessera {

using nlohmann::json;

struct JsonView::Place {
  std::string step;  ///< the origin at the root
  std::shared_ptr<const Place> parent;
};

namespace {

/// The value for a message: short, whatever it is.
std::string shown(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "…";
  return text;
}

/// Without the library's own prefix "[json.exception.parse_error.101] ".
std::string plain(std::string_view message) {
  const auto end = message.find("] ");
  return std::string(end == std::string_view::npos ? message : message.substr(end + 2));
}

}  // namespace

JsonView::JsonView(std::shared_ptr<const json> node, std::string origin)
    : node_(std::move(node)), place_(std::make_shared<Place>(Place{std::move(origin), nullptr})) {}

JsonView::JsonView(std::shared_ptr<const json> node, std::shared_ptr<const Place> place)
    : node_(std::move(node)), place_(std::move(place)) {}

JsonView JsonView::child(const json& node, std::string step) const {
  return JsonView(std::shared_ptr<const json>(node_, &node), std::make_shared<Place>(Place{std::move(step), place_}));
}

bool JsonView::is_object() const noexcept {
  return node_->is_object();
}
bool JsonView::is_array() const noexcept {
  return node_->is_array();
}
bool JsonView::is_text() const noexcept {
  return node_->is_string();
}
bool JsonView::is_number() const noexcept {
  return node_->is_number();
}
bool JsonView::is_null() const noexcept {
  return node_->is_null();
}
std::size_t JsonView::size() const noexcept {
  return node_->is_structured() ? node_->size() : 0;
}

std::string JsonView::where() const {
  std::string path;
  const Place* place = place_.get();
  for (; place->parent; place = place->parent.get()) {
    const bool joined = path.empty() || path[0] == '[';
    path = place->step + (joined ? "" : ".") + path;
  }
  return path.empty() ? place->step : place->step + ": " + path;
}

void JsonView::expected(std::string_view what) const {
  throw RequestError("{} is {}, {} is expected", where(), shown(*node_), what);
}

std::vector<std::string> JsonView::keys() const {
  if (!node_->is_object()) expected("an object");
  std::vector<std::string> out;
  for (const auto& item : node_->items()) out.push_back(item.key());
  return out;
}

bool JsonView::has(std::string_view key) const {
  if (!node_->is_object()) return false;
  const auto it = node_->find(key);
  return it != node_->end() && !it->is_null();
}

JsonView JsonView::at(std::string_view key) const {
  if (!node_->is_object()) expected("an object");
  const auto it = node_->find(key);
  if (it == node_->end()) throw RequestError("{}: the key '{}' is missing", where(), key);
  return child(*it, std::string(key));
}

JsonView JsonView::at(std::size_t index) const {
  if (!node_->is_array()) expected("a list");
  if (index >= node_->size()) throw RequestError("{}: element {} of {}", where(), index, node_->size());
  return child((*node_)[index], fmt::format("[{}]", index));
}

std::int64_t JsonView::integer() const {
  constexpr double kLimit = 0x1.0p63;
  if (node_->is_number_unsigned() && node_->get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) {
    expected("a number of 64 bits");
  }
  if (node_->is_number_integer()) return node_->get<std::int64_t>();
  if (node_->is_number_float()) {
    const double value = node_->get<double>();
    if (value == std::floor(value) && value >= -kLimit && value < kLimit) return static_cast<std::int64_t>(value);
  }
  expected("a whole number");
}

double JsonView::real() const {
  if (!node_->is_number()) expected("a number");
  return node_->get<double>();
}

bool JsonView::boolean() const {
  if (!node_->is_boolean()) expected("true or false");
  return node_->get<bool>();
}

std::string JsonView::text() const {
  if (!node_->is_string()) expected("a text");
  return node_->get<std::string>();
}

std::vector<std::int64_t> JsonView::integers() const {
  if (!node_->is_array()) expected("a list of whole numbers");
  std::vector<std::int64_t> out;
  for (std::size_t i = 0; i < node_->size(); ++i) out.push_back(at(i).integer());
  return out;
}

std::vector<double> JsonView::reals() const {
  if (!node_->is_array()) expected("a list of numbers");
  std::vector<double> out;
  for (std::size_t i = 0; i < node_->size(); ++i) out.push_back(at(i).real());
  return out;
}

std::vector<std::string> JsonView::texts() const {
  if (!node_->is_array()) expected("a list of texts");
  std::vector<std::string> out;
  for (std::size_t i = 0; i < node_->size(); ++i) out.push_back(at(i).text());
  return out;
}

std::int64_t JsonView::integer(std::string_view key, std::int64_t fallback) const {
  return has(key) ? at(key).integer() : fallback;
}
double JsonView::real(std::string_view key, double fallback) const {
  return has(key) ? at(key).real() : fallback;
}
bool JsonView::boolean(std::string_view key, bool fallback) const {
  return has(key) ? at(key).boolean() : fallback;
}
std::string JsonView::text(std::string_view key, std::string_view fallback) const {
  return has(key) ? at(key).text() : std::string(fallback);
}

JsonView parse_json(std::string_view text, std::string origin, JsonLimits limits) {
  if (static_cast<std::int64_t>(text.size()) > limits.max_bytes) {
    throw RequestError("{}: {} bytes of JSON, the limit is {}", origin, text.size(), limits.max_bytes);
  }
  const auto guard = [&](int depth, json::parse_event_t event, json&) {
    const bool opens = event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
    if (opens && depth >= limits.max_depth) {
      throw RequestError("{}: JSON nested deeper than {}", origin, limits.max_depth);
    }
    return true;
  };
  try {
    auto node = std::make_shared<const json>(json::parse(text.begin(), text.end(), guard));
    return JsonView(std::move(node), std::move(origin));
  } catch (const json::exception& error) {
    throw RequestError("{}: not JSON: {}", origin, plain(error.what()));
  }
}

JsonView read_json(const std::filesystem::path& path, JsonLimits limits) {
  return parse_json(read_file(path, limits.max_bytes), path.string(), limits);
}

void write_json(const std::filesystem::path& path, const json& value) {
  write_file(path, value.dump(2) + "\n");
}

}  // namespace tessera
