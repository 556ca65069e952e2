#pragma once
/// Options: one table of settings that the parser, --help, the defaults, config.toml and the unknown-key error all
/// walk.
///
/// A room declares its settings as a plain struct with defaults and one `bind(Options&, Struct&)`; a subcommand binds
/// the structs it needs and parses. Names keep the reference programs' spelling with underscores; `--mm-projector-lr`
/// is accepted for `--mm_projector_lr`. `--config FILE.toml` holds the same keys; a flag beats the file.
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace tessera {

struct OptionInfo {
  std::string group = "General";
  std::string unit = {};                  ///< shown in --help, e.g. "MiB"
  std::vector<std::string> choices = {};  ///< allowed values of a string option; empty: any
  bool required = false;
  bool positional = false;
  std::optional<double> min = {};  ///< smallest allowed number
};

class Options {
 public:
  using Target =
      std::variant<bool*, std::int64_t*, double*, std::string*, std::vector<std::string>*, std::optional<std::int64_t>*,
                   std::optional<double>*, std::optional<std::string>*, std::optional<bool>*>;

  explicit Options(std::string program, std::string about);
  Options(Options&&) noexcept;
  ~Options();

  /// Declares one setting; its default is what `target` holds now. A bool takes `--x`, `--x true`, `--x=false`,
  /// `--no_x`; a list `--x a b` or `--x a --x b`; an optional is emptied by `none`. Of a value given twice the last
  /// counts.
  Options& add(std::string name, Target target, std::string help, OptionInfo info = {});
  /// A flag of a reference program that cannot apply here: accepted, with a warning that says why, but where it asks
  /// for nothing else than what is done: empty, none or `standing`, in any spelling of true and false.
  Options& add_ignored(std::string name, std::string why, std::string standing = "false");
  /// Another name of the setting `of`, which is declared already: as a flag and as a key, of whichever the last counts.
  Options& add_alias(std::string name, const std::string& of);

  struct Outcome {
    bool help = false;                  ///< --help was asked for; print help() and end with status 0
    std::vector<std::string> warnings;  ///< ignored flags that were given and ask for something
  };
  /// args: without the program's and subcommand's name. Throws RequestError: unknown key with its nearest neighbour,
  /// malformed value, missing required option, unreadable or malformed --config file (file and line).
  Outcome parse(const std::vector<std::string>& args);

  std::string help() const;                 ///< grouped, with default and unit
  std::string dump_toml() const;            ///< everything in force; `parse` of it as --config gives the same
  bool given(std::string_view name) const;  ///< set by flag or file
  std::vector<std::string> names() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The candidate with the smallest edit distance, "" when none is near.
std::string nearest_name(std::string_view wanted, const std::vector<std::string>& candidates);

}  // namespace tessera
