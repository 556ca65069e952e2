#include <array>

#include "tessera/core/error.hpp"
#include "tessera/core/options.hpp"
#include "tessera/text/conversation.hpp"
#include "text/unicode.hpp"

namespace tessera::text {
namespace {

// System texts are part of the data that published models were trained on: to the letter.
constexpr const char* kUserSystem =
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.";
constexpr const char* kHumanSystem =
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.";
constexpr const char* kTagSystem =
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant is able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: <Image>visual content</Image>.";
constexpr const char* kLlama2System =
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information.";
constexpr const char* kLlavaLlama2System =
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language.";
constexpr const char* kMptSystem =
    "<|im_start|>system\n"
    "A conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers.";
constexpr const char* kDirectSystem = "<|im_start|>system\nAnswer the questions.";
constexpr const char* kQwenSystem = "<|im_start|>system\nYou are a helpful assistant.";
constexpr const char* kChatUser = "<|im_start|>user\n";
constexpr const char* kChatAssistant = "<|im_start|>assistant\n";

std::vector<Template> make_templates() {
  const Template human_v0{"v0", kHumanSystem, "Human", "Assistant", Style::single, "###", "", "Unknown"};
  const Template vicuna_v1{"v1", kUserSystem, "USER", "ASSISTANT", Style::two, " ", "</s>", "v1"};
  const Template plain{"plain", "", "", "", Style::plain, "\n", "", "Unknown"};
  const Template direct{"chatml_direct", kDirectSystem, kChatUser, kChatAssistant,
                        Style::chatml,   "<|im_end|>",  "",        "mpt"};
  const Template qwen{"qwen_2", kQwenSystem, kChatUser, kChatAssistant, Style::chatml, "<|im_end|>\n", "", "qwen_v2"};
  const auto named = [](Template form, const char* name) {
    form.name = name;
    return form;
  };
  return {
      human_v0,
      named(human_v0, "default"),
      named(human_v0, "llava_v0"),
      {"v0_mmtag", kTagSystem, "Human", "Assistant", Style::single, "###", "", "v0_mmtag"},
      vicuna_v1,
      named(vicuna_v1, "vicuna_v1"),
      named(vicuna_v1,
            "v0.5"),  // the trainer's --version v0.5 chooses a pad token and leaves the template at vicuna_v1
      {"llava_v1", kHumanSystem, "USER", "ASSISTANT", Style::two, " ", "</s>", "v1"},
      {"v1_mmtag", kTagSystem, "USER", "ASSISTANT", Style::two, " ", "</s>", "v1_mmtag"},
      {"llama_2", kLlama2System, "USER", "ASSISTANT", Style::llama_2, "<s>", "</s>", "llama_v2"},
      {"llava_llama_2", kLlavaLlama2System, "USER", "ASSISTANT", Style::llama_2, "<s>", "</s>", "llama_v2"},
      {"mistral_instruct", "", "USER", "ASSISTANT", Style::llama_2, "", "</s>", "llama_v2"},
      plain,
      named(plain, "v0_plain"),
      {"mpt", kMptSystem, kChatUser, kChatAssistant, Style::chatml, "<|im_end|>", "", "mpt"},
      direct,
      named(direct, "mistral_direct"),
      qwen,
      named(qwen, "chatml"),
  };
}

const std::vector<Template>& templates() {
  static const std::vector<Template> all = make_templates();
  return all;
}

std::string llama_2_prompt(const Template& form, const std::vector<std::string>& messages) {
  std::string text;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].empty()) {
      if (i == 0) throw RequestError("text: template '{}': the first message is empty", form.name);
      continue;
    }
    if (i % 2 == 1) {
      text += " " + messages[i] + " " + form.sep2;
      continue;
    }
    const bool with_system = i == 0 && !form.system.empty();
    const std::string system = with_system ? "<<SYS>>\n" + form.system + "\n<</SYS>>\n\n" : "";
    text += form.sep + "[INST] " + system + messages[i] + " [/INST]";
  }
  // The reference strips the separator's characters from the left; BOS is left to the tokenizer.
  const std::size_t begin = form.sep.empty() ? 0 : text.find_first_not_of(form.sep);
  return begin == std::string::npos ? "" : text.substr(begin);
}

}  // namespace

const Template& find_template(std::string_view name) {
  for (const Template& form : templates()) {
    if (form.name == name) return form;
  }
  const std::string near = nearest_name(name, template_names());
  throw RequestError("text: no conversation template '{}'{}; there are {}", name,
                     near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near),
                     fmt::format("{}", fmt::join(template_names(), ", ")));
}

std::vector<std::string> template_names() {
  std::vector<std::string> names;
  for (const Template& form : templates()) names.push_back(form.name);
  return names;
}

std::string build_prompt(const Template& form, const std::vector<std::string>& messages) {
  if (form.style == Style::llama_2) return llama_2_prompt(form, messages);
  const std::array<const std::string*, 2> ends = form.style == Style::two || form.style == Style::plain
                                                     ? std::array{&form.sep, &form.sep2}
                                                     : std::array{&form.sep, &form.sep};
  std::string text = form.system;
  if (form.style != Style::plain) text += form.sep;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = i % 2 == 0 ? form.user : form.assistant;
    const bool colon = form.style == Style::single || form.style == Style::two;
    if (messages[i].empty()) {
      text += role + (colon ? ":" : "");
    } else {
      text += role + (colon ? ": " : "") + messages[i] + *ends[i % 2];
    }
  }
  return text;
}

std::string build_prompt(const Template& form, const std::vector<Turn>& turns, std::string_view label) {
  std::vector<std::string> messages;
  if (turns.empty()) throw RequestError("text: {}: no turns", label);
  for (std::size_t i = turns[0].from == "gpt" ? 1 : 0; i < turns.size(); ++i) {
    const std::string expected = messages.size() % 2 == 0 ? "human" : "gpt";
    if (turns[i].from != expected) {
      throw RequestError("text: {}: turn {} is from '{}' where '{}' is due", label, i, turns[i].from, expected);
    }
    messages.push_back(turns[i].value);
  }
  if (form.style == Style::single) {
    // The trainer writes these turns differently from the template that chatting uses.
    std::string text = form.system + "\n\n";
    for (std::size_t i = 0; i < messages.size(); ++i) {
      text += "### " + (i % 2 == 0 ? form.user : form.assistant) + ": " + messages[i] + "\n";
    }
    return text + "### ";
  }
  if (form.style == Style::plain) {
    if (messages.size() != 2 || messages[0].find(kImageToken) == std::string::npos) {
      throw RequestError("text: {}: template '{}' takes a turn with <image> and its caption, nothing else", label,
                         form.name);
    }
    return std::string(kImageToken) + messages[1] + form.sep;
  }
  return build_prompt(form, messages);
}

void move_image_to_front(const Template& form, bool start_end, std::vector<Turn>& turns) {
  for (Turn& turn : turns) {
    if (turn.value.find(kImageToken) != std::string::npos) {
      const std::string rest(strip(replace_all(turn.value, kImageToken, "")));
      turn.value = std::string(strip(std::string(kImageToken) + "\n" + rest));
      if (form.version.find("mmtag") != std::string::npos) {
        turn.value = replace_all(turn.value, kImageToken, "<Image><image></Image>");
      }
    }
    if (start_end) turn.value = wrap_image_tokens(turn.value);
  }
}

}  // namespace tessera::text
