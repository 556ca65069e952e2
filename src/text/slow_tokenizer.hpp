#pragma once
/// What transformers' slow tokenizers share: cutting at added tokens with each release's white-space rules, and putting
/// the decoded runs together again.
#include "text/tokenizer_impl.hpp"

namespace tessera::text {

struct SlowTokenizer : Tokenizer::Impl {
  void tokenize(std::string_view text, Encoding& out) const override;
  std::string decode(const std::vector<std::string>& pieces) const override;
  /// After finish().
  void make_splitter() { splitter_ = std::make_unique<const Splitter>(added_list); }

 protected:
  /// One stretch of ordinary text.
  virtual void encode_segment(std::string_view text, Encoding& out) const = 0;
  /// convert_tokens_to_string of a non-empty run.
  virtual std::string join_run(std::vector<std::string> run) const = 0;

 private:
  std::unique_ptr<const Splitter> splitter_;
};

}  // namespace tessera::text
