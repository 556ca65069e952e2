#pragma once
// How a text from the command line or a value from a TOML file becomes the value of an option, and back.
#include <string>
#include <vector>

#include "tessera/core/options.hpp"

namespace tessera::detail {

/// A value as it was given. `flag`: text of the command line, any type may be read from it.
struct RawValue {
  enum class Kind { flag, boolean, integer, real, string, array };
  Kind kind = Kind::flag;
  std::vector<std::string> texts;  ///< one, or one per element
  std::string place;               ///< "--lr" or "run.toml:3: lr", for messages
};

/// Writes `raw` into `target`. Throws RequestError: wrong type, malformed, below `min`, not among `choices`.
void assign(const Options::Target& target, const RawValue& raw, const OptionInfo& info);

bool is_bool(const Options::Target& target);
bool is_list(const Options::Target& target);
std::string type_label(const Options::Target& target);     ///< "INT", "TEXT", …
std::string display_value(const Options::Target& target);  ///< for --help
/// The value as TOML; "" for an optional that holds nothing.
std::string toml_value(const Options::Target& target);
/// Text that a bool takes, or nothing: true, false, yes, no, on, off, 1, 0 in any case.
std::optional<bool> parse_bool(std::string_view text);

}  // namespace tessera::detail
