#include "tessera/core/options.hpp"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <cctype>

#include "core/option_values.hpp"
#include "core/options_toml.hpp"
#include "tessera/core/error.hpp"

namespace tessera {

using detail::RawValue;

struct Options::Impl {
  struct Entry {
    std::string name;
    Target target;
    std::string help;
    OptionInfo info;
    std::string initial_toml;  ///< the default, to tell "unset" from "set to nothing"
    bool given = false;
  };
  struct Ignored {
    std::string name;
    std::string why;
    std::string standing;  ///< what is done here whatever the flag says

    bool asks_for_something(const std::vector<std::string>& values) const {
      return !std::all_of(values.begin(), values.end(), [this](const std::string& value) {
        const auto meant = detail::parse_bool(value);
        return value.empty() || value == "none" || value == "None" || value == standing ||
               (meant && meant == detail::parse_bool(standing));
      });
    }
    void warn(const std::string& place, const std::vector<std::string>& values, Outcome& outcome) const {
      if (asks_for_something(values)) outcome.warnings.push_back(fmt::format("{} has no effect here: {}", place, why));
    }
  };
  struct Alias {
    std::string name;
    std::string of;
  };

  std::string program;
  std::string about;
  std::vector<Entry> entries;
  std::vector<Ignored> ignored;
  std::vector<Alias> aliases;

  Entry* find(std::string_view name) {
    const auto it = std::find_if(entries.begin(), entries.end(), [&](const Entry& e) { return e.name == name; });
    return it == entries.end() ? nullptr : &*it;
  }
  const Ignored* find_ignored(std::string_view name) const {
    const auto it = std::find_if(ignored.begin(), ignored.end(), [&](const Ignored& e) { return e.name == name; });
    return it == ignored.end() ? nullptr : &*it;
  }
  /// The name under which a setting was declared; an unknown one as it is.
  std::string declared(std::string name) const {
    std::replace(name.begin(), name.end(), '-', '_');
    const auto it = std::find_if(aliases.begin(), aliases.end(), [&](const Alias& e) { return e.name == name; });
    return it == aliases.end() ? name : it->of;
  }
  void check_new(const std::string& name) {
    if (name == "config" || name == "help" || find(declared(name)) != nullptr || find_ignored(name) != nullptr) {
      throw RunError("options of {}: '{}' is declared twice", program, name);
    }
  }

  std::vector<std::string> normalise(const std::vector<std::string>& args, Outcome& outcome);
  std::size_t take_value(const std::vector<std::string>& args, std::size_t next, Entry& entry,
                         std::vector<std::string>& out);
  void apply_config(const std::string& path, Outcome& outcome);
  void apply_flags(const CLI::App& app);
  [[noreturn]] void unknown(const std::string& place, const std::string& name) const;
  std::string configure(CLI::App& app) const;
};

namespace {

bool is_flag(const std::string& arg) {
  return arg.size() > 2 && arg[0] == '-' && arg[1] == '-';
}

/// "-1", "-.5": a value, not a flag.
bool is_negative_number(const std::string& arg) {
  return arg.size() > 1 && arg[0] == '-' && (std::isdigit(static_cast<unsigned char>(arg[1])) != 0 || arg[1] == '.');
}

bool is_value(const std::string& arg) {
  return arg.empty() || arg[0] != '-' || arg == "-" || is_negative_number(arg);
}

std::string describe(const std::string& help, const OptionInfo& info, const std::string& default_text) {
  std::string notes;
  const auto note = [&](const std::string& text) { notes += (notes.empty() ? "" : "; ") + text; };
  if (!info.unit.empty()) note("unit: " + info.unit);
  if (!info.choices.empty()) note(fmt::format("one of: {}", fmt::join(info.choices, ", ")));
  if (info.min) note(fmt::format("at least {}", *info.min));
  note(info.required ? "required" : "default: " + default_text);
  return help + " [" + notes + "]";
}

}  // namespace

Options::Options(std::string program, std::string about) : impl_(std::make_unique<Impl>()) {
  impl_->program = std::move(program);
  impl_->about = std::move(about);
}
Options::Options(Options&&) noexcept = default;
Options::~Options() = default;

Options& Options::add(std::string name, Target target, std::string help, OptionInfo info) {
  impl_->check_new(name);
  impl_->entries.push_back({std::move(name), target, std::move(help), std::move(info), detail::toml_value(target)});
  return *this;
}

Options& Options::add_ignored(std::string name, std::string why, std::string standing) {
  impl_->check_new(name);
  impl_->ignored.push_back({std::move(name), std::move(why), std::move(standing)});
  return *this;
}

Options& Options::add_alias(std::string name, const std::string& of) {
  impl_->check_new(name);
  if (impl_->find(of) == nullptr) throw RunError("options of {}: '{}' has no '{}'", impl_->program, name, of);
  impl_->aliases.push_back({std::move(name), of});
  return *this;
}

void Options::Impl::unknown(const std::string& place, const std::string& name) const {
  std::vector<std::string> all{"config", "help"};
  for (const auto& entry : entries) all.push_back(entry.name);
  for (const auto& entry : ignored) all.push_back(entry.name);
  for (const auto& entry : aliases) all.push_back(entry.name);
  const std::string near = nearest_name(name, all);
  if (near.empty()) throw RequestError("{}: no such option; '{} --help' lists them", place, program);
  throw RequestError("{}: no such option; did you mean --{}?", place, near);
}

/// `--name=value` as the parser takes it; an empty value goes apart, since after '=' it would swallow the next
/// argument.
void push_value(std::vector<std::string>& out, const std::string& name, const std::string& value) {
  if (value.empty()) {
    out.push_back("--" + name);
    out.emplace_back();
  } else {
    out.push_back("--" + name + "=" + value);
  }
}

/// Consumes the value(s) that follow a flag written without '='; returns the index after them.
std::size_t Options::Impl::take_value(const std::vector<std::string>& args, std::size_t next, Entry& entry,
                                      std::vector<std::string>& out) {
  if (detail::is_bool(entry.target)) {
    const bool has = next < args.size() && detail::parse_bool(args[next]).has_value();
    out.push_back("--" + entry.name + "=" + (has ? args[next] : "true"));
    return next + (has ? 1 : 0);
  }
  const std::size_t first = next;
  const bool many = detail::is_list(entry.target);
  while (next < args.size() && is_value(args[next]) && (many || next == first)) {
    push_value(out, entry.name, args[next++]);
  }
  if (next == first) throw RequestError("--{}: a value is missing ({})", entry.name, detail::type_label(entry.target));
  return next;
}

/// Rewrites the arguments so that the parser below sees only flags with their values and positionals.
std::vector<std::string> Options::Impl::normalise(const std::vector<std::string>& args, Outcome& outcome) {
  std::vector<std::string> out;
  for (std::size_t i = 0; i < args.size();) {
    const std::string& arg = args[i++];
    if (arg == "-h") {
      outcome.help = true;
      continue;
    }
    if (!is_flag(arg)) {
      if (!is_value(arg)) unknown(arg, arg.substr(std::min<std::size_t>(1, arg.size())));
      out.push_back(arg);
      continue;
    }
    const std::size_t equals = arg.find('=');
    const std::string name = declared(arg.substr(2, equals == std::string::npos ? equals : equals - 2));
    const bool has_value = equals != std::string::npos;
    if (name == "help") {
      outcome.help = true;
    } else if (name == "config") {
      if (!has_value && (i >= args.size() || !is_value(args[i]))) throw RequestError("--config: a file is missing");
      out.push_back("--config=" + (has_value ? arg.substr(equals + 1) : args[i++]));
    } else if (Entry* entry = find(name)) {
      if (has_value) {
        push_value(out, name, arg.substr(equals + 1));
      } else {
        i = take_value(args, i, *entry, out);
      }
    } else if (const Ignored* skipped = find_ignored(name)) {
      std::vector<std::string> values;
      if (has_value) values.push_back(arg.substr(equals + 1));
      while (!has_value && i < args.size() && is_value(args[i])) values.push_back(args[i++]);
      if (values.empty()) values.emplace_back("true");
      skipped->warn("--" + name, values, outcome);
    } else if (Entry* negated = name.starts_with("no_") ? find(declared(name.substr(3))) : nullptr;
               negated != nullptr && detail::is_bool(negated->target)) {
      if (has_value) throw RequestError("--{}: takes no value; write --{}{}", name, negated->name, arg.substr(equals));
      out.push_back("--" + negated->name + "=false");
    } else {
      unknown(arg.substr(0, equals), name);
    }
  }
  return out;
}

/// Declares everything to CLI11; returns its help text.
std::string Options::Impl::configure(CLI::App& app) const {
  app.set_help_flag();
  app.get_formatter()->column_width(34);
  app.add_option("--help")->group("General")->option_text(" ")->description("print this text and end")->expected(0);
  app.add_option("--config")
      ->group("General")
      ->option_text("FILE.toml")
      ->description("read these options from a file; a flag beats the file")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  for (const auto& entry : entries) {
    const std::string names = "--" + entry.name + (entry.info.positional ? "," + entry.name : "");
    auto* option = app.add_option(names);
    option->group(entry.info.group)
        ->option_text(detail::type_label(entry.target))
        ->description(describe(entry.help, entry.info, detail::display_value(entry.target)))
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    if (entry.info.positional && detail::is_list(entry.target)) option->expected(-1);
  }
  std::string footer;
  if (!aliases.empty()) footer += "Other names, which the reference programs have:\n";
  for (const auto& entry : aliases) footer += fmt::format("  --{}: --{}\n", entry.name, entry.of);
  if (!ignored.empty()) footer += "Accepted for the reference programs' sake, without effect:\n";
  for (const auto& entry : ignored) footer += fmt::format("  --{}: {}\n", entry.name, entry.why);
  return app.help() + footer;
}

void Options::Impl::apply_config(const std::string& path, Outcome& outcome) {
  for (const auto& item : detail::read_config(path)) {
    const std::string name = declared(item.key);
    if (Entry* entry = find(name)) {
      detail::assign(entry->target, item.value, entry->info);
      entry->given = true;
    } else if (const Ignored* skipped = find_ignored(name)) {
      skipped->warn(item.value.place, item.value.texts, outcome);
    } else {
      unknown(item.value.place, name);
    }
  }
}

void Options::Impl::apply_flags(const CLI::App& app) {
  for (auto& entry : entries) {
    const CLI::Option* option = app.get_option("--" + entry.name);
    if (option->count() == 0) continue;
    RawValue raw;
    raw.texts = option->results();
    raw.place = "--" + entry.name;
    detail::assign(entry.target, raw, entry.info);
    entry.given = true;
  }
}

Options::Outcome Options::parse(const std::vector<std::string>& args) {
  Outcome outcome;
  std::vector<std::string> rest = impl_->normalise(args, outcome);
  if (outcome.help) return outcome;
  CLI::App app(impl_->about, impl_->program);
  impl_->configure(app);
  std::reverse(rest.begin(), rest.end());  // CLI11 takes the last first
  try {
    app.parse(std::move(rest));
  } catch (const CLI::ParseError& error) {
    throw RequestError("{}: {}", impl_->program, error.what());
  }
  if (const auto* config = app.get_option("--config"); config->count() > 0) {
    impl_->apply_config(config->results().back(), outcome);
  }
  impl_->apply_flags(app);
  for (const auto& entry : impl_->entries) {
    if (entry.info.required && !entry.given) {
      throw RequestError("--{} is required: {}", entry.name, entry.help);
    }
  }
  return outcome;
}

std::string Options::help() const {
  CLI::App app(impl_->about, impl_->program);
  return impl_->configure(app);
}

std::string Options::dump_toml() const {
  std::vector<std::string> groups;
  for (const auto& entry : impl_->entries) {
    if (std::find(groups.begin(), groups.end(), entry.info.group) == groups.end()) groups.push_back(entry.info.group);
  }
  std::string out;
  for (const auto& group : groups) {
    out += fmt::format("{}# {}\n", out.empty() ? "" : "\n", group);
    for (const auto& entry : impl_->entries) {
      if (entry.info.group != group) continue;
      std::string value = detail::toml_value(entry.target);
      if (value.empty() && !entry.initial_toml.empty()) value = "\"none\"";  // it had a default, and was unset
      out += value.empty() ? fmt::format("# {} is not set\n", entry.name) : fmt::format("{} = {}\n", entry.name, value);
    }
  }
  return out;
}

bool Options::given(std::string_view name) const {
  const auto* entry = impl_->find(impl_->declared(std::string(name)));
  if (entry == nullptr) throw RunError("options of {}: '{}' was never declared", impl_->program, name);
  return entry->given;
}

std::vector<std::string> Options::names() const {
  std::vector<std::string> out;
  for (const auto& entry : impl_->entries) out.push_back(entry.name);
  return out;
}

namespace {

/// Insertions, deletions, substitutions and swaps of neighbours, one each.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before;
  std::vector<std::size_t> previous(b.size() + 1);
  std::vector<std::size_t> current(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) previous[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, previous[j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        current[j] = std::min(current[j], before[j - 2] + 1);
      }
    }
    before = previous;
    previous = current;
  }
  return previous[b.size()];
}

}  // namespace

std::string nearest_name(std::string_view wanted, const std::vector<std::string>& candidates) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(2, wanted.size() / 3) + 1;
  for (const auto& candidate : candidates) {
    const std::size_t distance = edit_distance(wanted, candidate);
    if (distance < best_distance && distance < std::max(wanted.size(), candidate.size())) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace tessera
