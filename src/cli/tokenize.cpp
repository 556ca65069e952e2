#include "cli/command.hpp"
#include "tessera/text/run_tokenize.hpp"

namespace tessera::cli {

int run_tokenize(const std::vector<std::string>& args, Session&) {
  text::TokenizeRequest request;
  std::string model;
  std::string inputs;
  std::string outputs;
  Options options("tessera tokenize", "Token ids of texts, as training sees them.");
  const OptionInfo files{.group = "Files", .required = true};
  const OptionInfo rules{.group = "Rules"};
  options.add("model", &model, "model folder with the tokenizer", files);
  options.add("inputs", &inputs, "JSON list of strings", files);
  options.add("outputs", &outputs, "JSON written: ids, pieces and text of each string", files);
  options.add("legacy", &request.legacy,
              "sentencepiece: a leading space after each added token; default: as the folder says", rules);
  options.add("bos", &request.bos, "put the beginning-of-sequence token in front; default: as the folder says", rules);
  options.add("strip_added_tokens", &request.strip_added_tokens,
              "white space around added tokens is dropped (transformers 4.31) or stays (4.37); default: by [SEG]",
              rules);
  options.add("drop_hash_merges", &request.drop_hash_merges,
              "ignore merges that begin with '#', as 4.37's slow Qwen2Tokenizer does", rules);
  options.add("image_token", &request.image_token, "split at <image> and put -200 there", rules);
  options.add("conversations", &request.conversations, "the strings are whole conversations of --template",
              {.group = "Conversations"});
  options.add("template", &request.form, "conversation template, e.g. llava_v1", {.group = "Conversations"});
  options.add("max_length", &request.max_length, "--model_max_length of the training",
              {.group = "Conversations", .unit = "tokens"});
  options.add("strict_mpt", &request.strict_mpt, "mask mpt conversations as LLaVA's head does",
              {.group = "Conversations"});
  if (!parse(options, args)) return 0;
  request.model = model;
  request.inputs = inputs;
  request.outputs = outputs;
  text::run_tokenize(request);
  return 0;
}

}  // namespace tessera::cli
