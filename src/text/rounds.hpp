#pragma once
/// Rounds: how many tokens of a conversation each question and answer take, by tokenising its parts, as the references
/// do.
#include "tessera/text/conversation.hpp"

namespace tessera::text {

struct Round {
  std::int64_t masked = 0;  ///< tokens at the front that are not learned
  std::int64_t length = 0;  ///< tokens of the whole round
};

struct Rounds {
  std::int64_t begin = 0;  ///< first token of the first round; those before it are not learned
  std::vector<Round> rounds;
  std::string problem = {};  ///< why a round does not fit the template; "" when all do. Rounds stop there.
};

/// T(text): its number of tokens, or its ids, with or without image slots.
struct Counter {
  const Tokenizer& tokenizer;
  bool images;
  std::vector<std::int64_t> ids(std::string_view text) const {
    return images ? encode_with_images(tokenizer, text).ids : tokenizer.encode_ids(text);
  }
  std::int64_t operator()(std::string_view text) const { return static_cast<std::int64_t>(ids(text).size()); }
};

/// Templates whose rounds end in `</s>`: v1 and llama_2 families. `shift_later`: from the second round on, one token
/// less, for tokenizers that put no space after `</s>`.
Rounds rounds_by_stop_token(const Counter& count, const Template& form, std::string_view text, bool shift_later);
/// mpt and chatml_direct. `strict`: as in LLaVA's head, which miscounts by one a round.
Rounds rounds_mpt(const Counter& count, const Template& form, std::string_view text, bool strict);
/// qwen_2.
Rounds rounds_qwen(const Counter& count, const Template& form, std::string_view text);

}  // namespace tessera::text
