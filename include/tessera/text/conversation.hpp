#pragma once
/// Conversations: how turns become one prompt text, and which of its tokens are trained on.
///
/// Template names: v0, default, v1, vicuna_v1, llava_v0, llava_v1, v0_mmtag, v1_mmtag, plain, v0_plain, llama_2,
/// llava_llama_2, mistral_instruct, mpt, chatml_direct, mistral_direct, qwen_2 (also: chatml), v0.5 (the trainer's name
/// for vicuna_v1 with another pad token). `v1` says "user" in its system sentence where `llava_v1` says "human". The
/// two example turns that LLaVA's `v0` carries for chatting are never part of a training prompt and are not kept here.
/// Source: model/llava/conversation.py and utils/dataset.py of LISA; llava/conversation.py and llava/train/train.py of
/// LLaVA; FastVLM's train_qwen.py.
#include "tessera/text/image_tokens.hpp"

namespace tessera::text {

enum class Style { single, two, chatml, plain, llama_2 };

struct Template {
  std::string name;
  std::string system;
  std::string user, assistant;  ///< role texts
  Style style = Style::single;
  std::string sep, sep2;
  std::string version;  ///< what LLaVA's trainer dispatches on: "v1", "llama_v2", "mpt", "qwen_v2", …
};

/// Throws RequestError: unknown name, with its nearest neighbour.
const Template& find_template(std::string_view name);
std::vector<std::string> template_names();

/// Messages alternate user, assistant, …; an empty last message asks for an answer ("… ASSISTANT:").
std::string build_prompt(const Template& form, const std::vector<std::string>& messages);

struct Turn {
  std::string from;  ///< "human" or "gpt"
  std::string value;
};
/// Training text of a LLaVA record: a leading "gpt" turn is dropped, then the roles must alternate. Templates of style
/// `single` are written as "### Role: text" lines, `plain` as <image> and caption, as the trainer does.
/// Throws RequestError naming `label`.
std::string build_prompt(const Template& form, const std::vector<Turn>& turns, std::string_view label);

/// LLaVA's preprocess_multimodal: in each turn that has `<image>` all of them become one in front, followed by a
/// newline; mmtag templates wrap it; `start_end` wraps every `<image>` of any turn in <im_start>, <im_end>.
void move_image_to_front(const Template& form, bool start_end, std::vector<Turn>& turns);

enum class Recipe {
  lisa,   ///< a text that does not fit the rule is an error; cut to max_length − (image_patches − 1)
  llava,  ///< a text that does not fit the rule is kept with all labels ignored; cut to max_length
};

struct ConversationOptions {
  Recipe recipe = Recipe::lisa;
  std::int64_t max_length = 512;       ///< --model_max_length, in tokens
  std::int64_t image_patches = 256;    ///< features one image expands to; LISA leaves room for them when it cuts
  bool truncate = true;                ///< false: whole, as LISA's validation has it; what a cut would keep is the same
  bool start_end = true;               ///< lisa: put <im_start>, <im_end> around <image> first
  std::optional<bool> has_image = {};  ///< llava: whether the record has an image; default: the text has `<image>`
  bool strict_mpt = false;             ///< llava: the rule of LLaVA's head for mpt, which matches no multi-turn sample
  std::string label = "conversation";  ///< names the sample in errors
};

struct Encoded {
  std::vector<std::int64_t> input_ids;  ///< with kImageId, not padded
  std::vector<std::int64_t> labels;     ///< kIgnoreId where nothing is learned; same length
  std::int64_t full_length = 0;         ///< tokens before cutting
  bool mismatch = false;                ///< llava: the lengths disagreed and every label was ignored
};

/// Ids and labels of one whole conversation, as the template wrote it. Throws RequestError naming options.label (lisa):
/// `</s>` inside a message, a round with no or several answer markers, lengths that do not add up.
Encoded encode_conversation(const Tokenizer& tokenizer, const Template& form, std::string_view text,
                            const ConversationOptions& options);

}  // namespace tessera::text
