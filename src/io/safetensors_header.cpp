#include "io/safetensors_header.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

using nlohmann::json;

/// Takes the header's events one by one: no tree is built, nesting beyond the format's three levels ends at once, and a
/// name that stands twice is seen (a tree would keep only the last).
class HeaderHandler : public nlohmann::json_sax<json> {
 public:
  explicit HeaderHandler(const std::string& file) : file_(file) {}
  SafetensorsHeader take() { return std::move(header_); }

  bool key(string_t& text) override {
    switch (level_) {
      case Level::top:
        name_ = text;
        break;
      case Level::metadata:
        field_ = text;
        break;
      default:
        field_ = text;
        break;
    }
    return true;
  }

  bool start_object(std::size_t) override {
    switch (level_) {
      case Level::outside:
        level_ = Level::top;
        return true;
      case Level::top:
        if (name_ == "__metadata__") {
          if (std::exchange(has_metadata_, true)) refuse("__metadata__ stands twice");
          level_ = Level::metadata;
        } else {
          entry_ = HeaderEntry{};
          entry_.info.name = name_;
          has_type_ = has_shape_ = has_offsets_ = false;
          level_ = Level::tensor;
        }
        return true;
      default:
        refuse("an object where none belongs");
    }
  }

  bool end_object() override {
    switch (level_) {
      case Level::top:
        level_ = Level::done;
        return true;
      case Level::tensor:
        if (!has_type_ || !has_shape_ || !has_offsets_) {
          refuse(!has_type_ ? "no dtype" : !has_shape_ ? "no shape" : "no data_offsets");
        }
        header_.entries.push_back(std::move(entry_));
        break;
      default:
        break;
    }
    level_ = Level::top;
    return true;
  }

  bool start_array(std::size_t) override {
    if (level_ != Level::tensor) refuse("a list where none belongs");
    if (field_ == "shape") {
      if (std::exchange(has_shape_, true)) refuse("two shapes");
      level_ = Level::shape;
    } else if (field_ == "data_offsets") {
      if (std::exchange(has_offsets_, true)) refuse("two data_offsets");
      level_ = Level::offsets;
      offsets_.clear();
    } else {
      refuse("the unknown field '" + field_ + "'");
    }
    return true;
  }

  bool end_array() override {
    if (level_ == Level::offsets) {
      if (offsets_.size() != 2) refuse("data_offsets without exactly two numbers");
      entry_.begin = offsets_[0];
      entry_.end = offsets_[1];
    }
    level_ = Level::tensor;
    return true;
  }

  bool string(string_t& text) override {
    if (level_ == Level::metadata) {
      if (!header_.metadata.emplace(field_, text).second) refuse("the metadata '" + field_ + "' twice");
      return true;
    }
    if (level_ != Level::tensor || field_ != "dtype") refuse("a text where none belongs");
    if (std::exchange(has_type_, true)) refuse("two dtypes");
    const auto type = elem_named(text);
    if (!type) refuse("the dtype '" + text + "', which is not supported");
    entry_.info.type = *type;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(INT64_MAX)) refuse("a number beyond 63 bits");
    if (level_ == Level::shape) {
      if (entry_.info.shape.size() >= kMostDimensions) refuse("too many dimensions");
      entry_.info.shape.push_back(static_cast<std::int64_t>(value));
    } else if (level_ == Level::offsets) {
      if (offsets_.size() >= 2) refuse("data_offsets without exactly two numbers");
      offsets_.push_back(static_cast<std::int64_t>(value));
    } else {
      refuse("a number where none belongs");
    }
    return true;
  }

  bool number_integer(number_integer_t) override { refuse("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { refuse("a number that is not whole"); }
  bool null() override { refuse("a null"); }
  bool boolean(bool) override { refuse("a boolean"); }
  bool binary(binary_t&) override { refuse("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    throw RequestError("'{}': the header is not JSON at its byte {}", file_, position);
  }

 private:
  enum class Level { outside, top, metadata, tensor, shape, offsets, done };
  static constexpr std::size_t kMostDimensions = 64;  // LibTorch's own limit

  [[noreturn]] void refuse(const std::string& what) const {
    const bool inside = level_ != Level::outside && level_ != Level::done && !name_.empty();
    throw RequestError("'{}': the header has {}{}", file_, what, inside ? " at '" + name_ + "'" : "");
  }

  const std::string& file_;
  SafetensorsHeader header_;
  Level level_ = Level::outside;
  std::string name_;
  std::string field_;
  HeaderEntry entry_;
  std::vector<std::int64_t> offsets_;
  bool has_type_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  bool has_metadata_ = false;
};

void check_names(const SafetensorsHeader& header, const std::string& file) {
  for (std::size_t i = 1; i < header.entries.size(); ++i) {
    if (header.entries[i].info.name == header.entries[i - 1].info.name) {
      throw RequestError("'{}': the tensor '{}' stands twice in the header", file, header.entries[i].info.name);
    }
  }
}

void check_sizes(const HeaderEntry& entry, std::int64_t data_bytes, const std::string& file) {
  const auto& info = entry.info;
  const auto numel = checked_numel(info.shape);
  if (!numel)
    throw RequestError("'{}' tensor '{}': the shape {} is too large", file, info.name, shape_text(info.shape));
  if (entry.begin > entry.end || entry.end > data_bytes) {
    throw RequestError("'{}' tensor '{}': its bytes {} to {} do not lie in the file's {} bytes of data{}", file,
                       info.name, entry.begin, entry.end, data_bytes,
                       entry.begin <= entry.end ? "; is the file cut short?" : "");
  }
  const auto bytes = *numel * static_cast<std::int64_t>(size_of(info.type));
  if (bytes != entry.end - entry.begin) {
    throw RequestError("'{}' tensor '{}': {} of shape {} needs {} bytes, its offsets hold {}", file, info.name,
                       name_of(info.type), shape_text(info.shape), bytes, entry.end - entry.begin);
  }
}

/// Every byte of the data belongs to exactly one tensor.
void check_cover(const SafetensorsHeader& header, std::int64_t data_bytes, const std::string& file) {
  std::vector<const HeaderEntry*> order;
  for (const auto& entry : header.entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const HeaderEntry* a, const HeaderEntry* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  std::int64_t at = 0;
  for (const auto* entry : order) {
    if (entry->begin != at) {
      throw RequestError("'{}' tensor '{}': begins at byte {} of the data, {} is expected ({})", file, entry->info.name,
                         entry->begin, at, entry->begin < at ? "it overlaps another" : "a gap");
    }
    at = entry->end;
  }
  if (at != data_bytes) throw RequestError("'{}': {} bytes of data, the header tells of {}", file, data_bytes, at);
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, std::int64_t data_bytes, const std::string& file) {
  HeaderHandler handler(file);
  json::sax_parse(text.begin(), text.end(), &handler);
  SafetensorsHeader header = handler.take();
  std::sort(header.entries.begin(), header.entries.end(),
            [](const HeaderEntry& a, const HeaderEntry& b) { return a.info.name < b.info.name; });
  check_names(header, file);
  for (const auto& entry : header.entries) check_sizes(entry, data_bytes, file);
  check_cover(header, data_bytes, file);
  return header;
}

std::string format_safetensors_header(const std::vector<HeaderEntry>& entries, const Metadata& metadata) {
  nlohmann::ordered_json top = nlohmann::ordered_json::object();
  if (!metadata.empty()) top["__metadata__"] = metadata;
  std::string text = top.dump();
  text.pop_back();  // the tensors are added as text: an ordered object looks through all its keys at each insertion
  for (const auto& entry : entries) {
    text += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", text.size() > 1 ? "," : "",
                        json(entry.info.name).dump(), name_of(entry.info.type), fmt::join(entry.info.shape, ","),
                        entry.begin, entry.end);
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

}  // namespace tessera::io
