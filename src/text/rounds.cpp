#include "text/rounds.hpp"

#include <algorithm>

#include "tessera/core/error.hpp"
#include "text/unicode.hpp"

namespace tessera::text {
namespace {

/// The part up to and including the answer marker; nullopt and a problem when the marker is not there exactly once.
std::optional<std::string> question_of(std::string_view round, std::string_view marker, std::size_t index,
                                       Rounds& out) {
  const std::size_t found = split(round, marker).size() - 1;
  if (found == 1) return std::string(round.substr(0, round.find(marker) + marker.size()));
  out.problem = fmt::format("round {} has the answer marker '{}' {} times instead of once", index + 1, marker, found);
  return std::nullopt;
}

std::string join(const std::vector<std::string_view>& parts, std::size_t begin, std::size_t end, std::string_view sep) {
  std::string text;
  for (std::size_t i = begin; i < std::min(end, parts.size()); ++i) {
    if (i > begin) text += sep;
    text += parts[i];
  }
  return text;
}

}  // namespace

Rounds rounds_by_stop_token(const Counter& count, const Template& form, std::string_view text, bool shift_later) {
  const std::string marker = form.style == Style::llama_2 ? "[/INST] " : form.sep + form.assistant + ": ";
  Rounds out;
  out.begin = 1;  // BOS
  std::size_t index = 0;
  for (const std::string_view round : split(text, form.sep2)) {
    if (round.empty()) break;
    const auto question = question_of(round, marker, index, out);
    if (!question) break;
    // Minus two: the question's own BOS, and the piece of the space behind the marker, which in the whole text belongs
    // to the answer's first word. The round's own BOS stands in for the </s> that the split removed.
    Round r{count(*question) - 2, count(round)};
    if (shift_later && index > 0) {
      --r.masked;
      --r.length;
    }
    out.rounds.push_back(r);
    ++index;
  }
  return out;
}

Rounds rounds_mpt(const Counter& count, const Template& form, std::string_view text, bool strict) {
  const std::string marker = form.sep + form.assistant;
  const std::vector<std::string_view> parts = split(text, form.sep);
  std::vector<std::string> rounds = {join(parts, 0, 3, form.sep)};  // system, user, assistant
  for (std::size_t i = 3; i < parts.size(); i += 2) rounds.push_back(join(parts, i, i + 2, form.sep));
  const std::int64_t end_length = count(form.sep);
  Rounds out;
  for (std::size_t i = 0; i < rounds.size() && !rounds[i].empty(); ++i) {
    const auto question = question_of(rounds[i], marker, i, out);
    if (!question) break;
    if (strict) {
      const std::int64_t later = i > 0 && count.tokenizer.legacy() ? 1 : 0;
      out.rounds.push_back({count(*question) - 1 + later, count(rounds[i]) + later});
    } else {
      out.rounds.push_back({count(*question), count(rounds[i]) + end_length});
    }
  }
  return out;
}

Rounds rounds_qwen(const Counter& count, const Template& form, std::string_view text) {
  const std::string marker = form.sep + form.assistant;
  const std::vector<std::string_view> parts = split(text, form.sep);
  const bool with_system = parts.size() > 1 && parts[0] == form.system;
  std::vector<std::string> rounds;
  for (std::size_t i = 0; i < parts.size();) {
    const std::size_t take = i == 0 && with_system ? 3 : 2;
    rounds.push_back(join(parts, i, i + take, form.sep));
    i += take;
  }
  Rounds out;
  for (std::size_t i = 0; i < rounds.size() && !rounds[i].empty(); ++i) {
    const auto question = question_of(rounds[i], marker, i, out);
    if (!question) break;
    if (!question->starts_with(form.user) && !question->starts_with(form.system)) {
      out.problem = fmt::format("round {} begins with neither the system text nor '{}'", i + 1, strip(form.user));
      break;
    }
    const std::vector<std::int64_t> whole = count.ids(rounds[i]);
    const std::vector<std::int64_t> front = count.ids(*question);
    const auto [a, b] = std::mismatch(front.begin(), front.end(), whole.begin(), whole.end());
    constexpr std::int64_t kEnd = 2;  // <|im_end|> and the newline
    out.rounds.push_back({a - front.begin(), static_cast<std::int64_t>(whole.size()) + kEnd});
  }
  return out;
}

}  // namespace tessera::text
