#include "core/option_values.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <type_traits>

#include "tessera/core/error.hpp"

namespace tessera::detail {
namespace {

using Kind = RawValue::Kind;

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

[[noreturn]] void malformed(const RawValue& raw, std::string_view text, std::string_view expected) {
  throw RequestError("{}: '{}' is not {}", raw.place, text, expected);
}

void check_min(const RawValue& raw, double value, const OptionInfo& info) {
  if (info.min && value < *info.min) {
    throw RequestError("{}: {} is too small, the smallest allowed value is {}", raw.place, value, *info.min);
  }
}

const std::string& single(const RawValue& raw, std::string_view expected) {
  if (raw.kind == Kind::array) throw RequestError("{}: a list where {} is expected", raw.place, expected);
  return raw.texts.back();  // the last of several, as the reference programs' parser does
}

std::string_view without_plus(std::string_view text) {
  return text.size() > 1 && text[0] == '+' && text[1] != '-' ? text.substr(1) : text;
}

void convert(bool& out, const RawValue& raw, const OptionInfo&) {
  const std::string& text = single(raw, "true or false");
  if (raw.kind != Kind::flag && raw.kind != Kind::boolean) malformed(raw, text, "true or false");
  const auto value = parse_bool(text);
  if (!value) malformed(raw, text, "true or false");
  out = *value;
}

void convert(std::int64_t& out, const RawValue& raw, const OptionInfo& info) {
  const std::string& given = single(raw, "a whole number");
  if (raw.kind != Kind::flag && raw.kind != Kind::integer) malformed(raw, given, "a whole number");
  const std::string_view text = without_plus(given);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) malformed(raw, given, "a number of 64 bits");
  if (error != std::errc{} || end != text.data() + text.size()) malformed(raw, given, "a whole number");
  check_min(raw, static_cast<double>(value), info);
  out = value;
}

void convert(double& out, const RawValue& raw, const OptionInfo& info) {
  const std::string& given = single(raw, "a number");
  if (raw.kind != Kind::flag && raw.kind != Kind::integer && raw.kind != Kind::real) malformed(raw, given, "a number");
  const std::string_view text = without_plus(given);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || std::isnan(value)) malformed(raw, given, "a number");
  if (std::isinf(value)) malformed(raw, given, "finite");
  check_min(raw, value, info);
  out = value;
}

void check_choice(const RawValue& raw, const std::string& text, const OptionInfo& info) {
  if (info.choices.empty() || std::find(info.choices.begin(), info.choices.end(), text) != info.choices.end()) return;
  throw RequestError("{}: '{}' is not one of {}", raw.place, text, fmt::join(info.choices, ", "));
}

void convert(std::string& out, const RawValue& raw, const OptionInfo& info) {
  const std::string& text = single(raw, "a text");
  if (raw.kind != Kind::flag && raw.kind != Kind::string) {
    throw RequestError("{}: {} is not a text; write it in quotes", raw.place, text);
  }
  check_choice(raw, text, info);
  out = text;
}

void convert(std::vector<std::string>& out, const RawValue& raw, const OptionInfo& info) {
  if (raw.kind != Kind::flag && raw.kind != Kind::array) {
    throw RequestError("{}: {} is not a list; write it in brackets", raw.place, raw.texts.back());
  }
  for (const auto& text : raw.texts) check_choice(raw, text, info);
  out = raw.texts;
}

template <class T>
void convert(std::optional<T>& out, const RawValue& raw, const OptionInfo& info) {
  const bool textual = raw.kind == Kind::flag || raw.kind == Kind::string;
  if (textual && lower(raw.texts.back()) == "none") {
    out.reset();
    return;
  }
  T value{};
  convert(value, raw, info);
  out = std::move(value);
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\r':
        out += "\\r";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          out += fmt::format("\\u{:04X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

std::string to_toml(bool value) {
  return value ? "true" : "false";
}
std::string to_toml(std::int64_t value) {
  return fmt::format("{}", value);
}
std::string to_toml(double value) {
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::string text = fmt::format("{}", value);  // the shortest text that reads back the same
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}
std::string to_toml(const std::string& value) {
  return quoted(value);
}
std::string to_toml(const std::vector<std::string>& value) {
  std::string out = "[";
  for (const auto& item : value) out += (out.size() > 1 ? ", " : "") + quoted(item);
  return out + "]";
}
template <class T>
std::string to_toml(const std::optional<T>& value) {
  return value ? to_toml(*value) : "";
}

std::string to_text(bool value) {
  return to_toml(value);
}
std::string to_text(std::int64_t value) {
  return fmt::format("{}", value);
}
std::string to_text(double value) {
  return fmt::format("{}", value);
}
std::string to_text(const std::string& value) {
  return value.empty() ? "\"\"" : value;
}
std::string to_text(const std::vector<std::string>& value) {
  return value.empty() ? "none" : fmt::format("{}", fmt::join(value, " "));
}
template <class T>
std::string to_text(const std::optional<T>& value) {
  return value ? to_text(*value) : "none";
}

template <class T>
std::string label_of() {
  if constexpr (IsOptional<T>::value) {
    return label_of<typename T::value_type>();
  } else if constexpr (std::is_same_v<T, bool>) {
    return "BOOL";
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    return "INT";
  } else if constexpr (std::is_same_v<T, double>) {
    return "NUMBER";
  } else if constexpr (std::is_same_v<T, std::string>) {
    return "TEXT";
  } else {
    return "TEXT...";
  }
}

}  // namespace

std::optional<bool> parse_bool(std::string_view text) {
  const std::string word = lower(text);
  if (word == "true" || word == "1" || word == "yes" || word == "on") return true;
  if (word == "false" || word == "0" || word == "no" || word == "off") return false;
  return std::nullopt;
}

void assign(const Options::Target& target, const RawValue& raw, const OptionInfo& info) {
  std::visit([&](auto* value) { convert(*value, raw, info); }, target);
}

bool is_bool(const Options::Target& target) {
  return std::holds_alternative<bool*>(target) || std::holds_alternative<std::optional<bool>*>(target);
}

bool is_list(const Options::Target& target) {
  return std::holds_alternative<std::vector<std::string>*>(target);
}

std::string type_label(const Options::Target& target) {
  return std::visit([](auto* value) { return label_of<std::remove_pointer_t<decltype(value)>>(); }, target);
}

std::string display_value(const Options::Target& target) {
  return std::visit([](auto* value) { return to_text(*value); }, target);
}

std::string toml_value(const Options::Target& target) {
  return std::visit([](auto* value) { return to_toml(*value); }, target);
}

}  // namespace tessera::detail
