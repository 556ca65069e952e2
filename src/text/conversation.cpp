#include "tessera/text/conversation.hpp"

#include <algorithm>

#include "tessera/core/error.hpp"
#include "text/rounds.hpp"
#include "text/unicode.hpp"

namespace tessera::text {
namespace {

using Ids = std::vector<std::int64_t>;

/// Python's target[begin:end] = IGNORE with begin, end ≥ 0.
void ignore(Ids& labels, std::int64_t begin, std::int64_t end) {
  const auto size = static_cast<std::int64_t>(labels.size());
  for (std::int64_t i = begin; i < std::min(end, size); ++i) labels[static_cast<std::size_t>(i)] = kIgnoreId;
}

/// Masks every round's question and what lies outside the rounds; returns where the last round ends.
std::int64_t mask_rounds(const Rounds& rounds, Ids& labels) {
  ignore(labels, 0, rounds.begin);
  std::int64_t at = rounds.begin;
  for (const Round& round : rounds.rounds) {
    ignore(labels, at, at + round.masked);
    at += round.length;
  }
  ignore(labels, at, static_cast<std::int64_t>(labels.size()));
  return at;
}

void cut(Encoded& out, std::int64_t limit) {
  const auto size = static_cast<std::size_t>(std::max<std::int64_t>(limit, 0));
  if (out.input_ids.size() <= size) return;
  out.input_ids.resize(size);
  out.labels.resize(size);
}

/// Tokens that the references count: those that are not the pad id.
std::int64_t count_real(const Tokenizer& tokenizer, const Ids& ids) {
  const std::int64_t pad = tokenizer.pad_id();
  return std::count_if(ids.begin(), ids.end(), [&](std::int64_t id) { return id != pad; });
}

Rounds find_rounds(const Counter& count, const Template& form, std::string_view text,
                   const ConversationOptions& options) {
  switch (form.style) {
    case Style::two: {
      const bool shift = options.recipe == Recipe::llava && !count.tokenizer.legacy();
      return rounds_by_stop_token(count, form, text, shift);
    }
    case Style::llama_2:
      return rounds_by_stop_token(count, form, text, false);
    case Style::chatml:
      return form.version == "mpt" ? rounds_mpt(count, form, text, options.strict_mpt) : rounds_qwen(count, form, text);
    case Style::single:
    case Style::plain:
      break;
  }
  throw RequestError("text: {}: template '{}' has no rounds", options.label, form.name);
}

Encoded encode_lisa(const Tokenizer& tokenizer, const Template& form, std::string_view given,
                    const ConversationOptions& options) {
  if (form.style == Style::single || form.style == Style::plain) {
    throw RequestError("text: {}: LISA has no label rule for template '{}'; llava_v1 and llava_llama_2 are its own",
                       options.label, form.name);
  }
  const std::string text = options.start_end ? wrap_image_tokens(given) : std::string(given);
  Encoded out;
  out.input_ids = encode_with_images(tokenizer, text).ids;
  out.labels = out.input_ids;
  out.full_length = static_cast<std::int64_t>(out.input_ids.size());
  const Rounds rounds = find_rounds({tokenizer, true}, form, text, options);
  if (!rounds.problem.empty()) {
    throw RequestError("text: {}: {} (template '{}'); does a message contain the template's own markers?",
                       options.label, rounds.problem, form.name);
  }
  const std::int64_t end = mask_rounds(rounds, out.labels);
  const std::int64_t total = count_real(tokenizer, out.input_ids);
  if (end < options.max_length && end != total) {
    throw RequestError(
        "text: {}: its rounds have {} tokens, the whole has {}; an unknown token, a '{}' inside a message "
        "or an unfinished last turn does that",
        options.label, end, total, form.sep2.empty() ? form.sep : form.sep2);
  }
  if (options.truncate) cut(out, options.max_length - (options.image_patches - 1));
  return out;
}

/// Caption training: everything after <image> is learned.
void label_plain(const Tokenizer& tokenizer, std::string_view text, const ConversationOptions& options, Encoded& out) {
  if (!text.starts_with(kImageToken)) {
    throw RequestError("text: {}: a plain conversation begins with {}", options.label, kImageToken);
  }
  ignore(out.labels, 0, static_cast<std::int64_t>(encode_with_images(tokenizer, kImageToken).ids.size()));
}

/// Cuts "### Role: text\n" lines apart again: the system text first, then the turns.
std::vector<std::string_view> split_v0(const Template& form, std::string_view text,
                                       const ConversationOptions& options) {
  const std::string header = form.system + "\n\n";
  constexpr std::string_view kBegin = "### ";
  if (!text.starts_with(header) || !text.ends_with(kBegin)) {
    throw RequestError(
        "text: {}: a conversation of template '{}' begins with its system text and two newlines and ends "
        "with '### ', as the trainer writes it",
        options.label, form.name);
  }
  std::vector<std::string_view> parts = {text.substr(0, header.size())};
  text = text.substr(header.size(), text.size() - header.size() - kBegin.size());
  const std::array<std::string, 3> starts = {"### " + form.user + ": ", "### " + form.assistant + ": ",
                                             "### unknown: "};
  while (!text.empty()) {
    std::size_t end = text.size();
    for (const std::string& start : starts) {
      const std::size_t at = text.find("\n" + start);
      if (at != std::string_view::npos) end = std::min(end, at + 1);
    }
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return parts;
}

/// The oldest rule: each part is tokenised with a BOS of its own that the whole does not have, so the mask drifts by
/// one a turn. Kept as it is, since models were trained with it.
void label_v0(const Tokenizer& tokenizer, const Template& form, std::string_view text, bool images,
              const ConversationOptions& options, Encoded& out) {
  const auto length = [&](std::string_view part) {
    if (images) return static_cast<std::int64_t>(encode_with_images(tokenizer, part).ids.size());
    Ids ids = tokenizer.encode_ids(part);
    if (static_cast<std::int64_t>(ids.size()) > options.max_length)
      ids.resize(static_cast<std::size_t>(options.max_length));
    return count_real(tokenizer, ids);
  };
  const std::vector<std::string_view> parts = split_v0(form, text, options);
  std::int64_t at = length(parts[0]);
  ignore(out.labels, 0, at);
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const std::int64_t tokens = length(parts[i]);
    if (parts[i].starts_with("### " + form.user + ": ")) ignore(out.labels, at + 2, at + tokens);
    at += tokens;
  }
}

Encoded encode_llava(const Tokenizer& tokenizer, const Template& form, std::string_view text,
                     const ConversationOptions& options) {
  const bool images = options.has_image.value_or(text.find(kImageToken) != std::string_view::npos);
  const bool plain = form.style == Style::plain;
  Encoded out;
  out.input_ids = images || plain ? encode_with_images(tokenizer, text).ids : tokenizer.encode_ids(text);
  out.labels = out.input_ids;
  out.full_length = static_cast<std::int64_t>(out.input_ids.size());
  // Text alone is cut before it is labelled, text with images after.
  if (!images && !plain && options.truncate) cut(out, options.max_length);
  if (plain) {
    label_plain(tokenizer, text, options, out);
  } else if (form.style == Style::single) {
    label_v0(tokenizer, form, text, images, options, out);
  } else {
    const std::int64_t end = mask_rounds(find_rounds({tokenizer, images}, form, text, options), out.labels);
    if (end < options.max_length && end != count_real(tokenizer, out.input_ids)) {
      std::fill(out.labels.begin(), out.labels.end(), kIgnoreId);
      out.mismatch = true;
    }
  }
  if (options.truncate) cut(out, options.max_length);
  return out;
}

}  // namespace

Encoded encode_conversation(const Tokenizer& tokenizer, const Template& form, std::string_view text,
                            const ConversationOptions& options) {
  if (options.max_length < 1 || options.image_patches < 0) {
    throw RequestError("text: {}: max_length {} and {} image patches make no sense", options.label, options.max_length,
                       options.image_patches);
  }
  if (options.recipe == Recipe::lisa && options.truncate && options.max_length <= options.image_patches - 1) {
    throw RequestError("text: {}: an image takes {} tokens, so --model_max_length {} leaves none for text",
                       options.label, options.image_patches, options.max_length);
  }
  return options.recipe == Recipe::lisa ? encode_lisa(tokenizer, form, text, options)
                                        : encode_llava(tokenizer, form, text, options);
}

}  // namespace tessera::text
