#include "tessera/text/lisa_templates.hpp"

#include <utf8proc.h>

#include "text/unicode.hpp"

namespace tessera::text {
namespace {

constexpr char32_t kCapitalSigma = 0x3A3;
constexpr char32_t kCapitalIWithDot = 0x130;

bool is_letter(char32_t code) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL || category == UTF8PROC_CATEGORY_LT;
}

}  // namespace

std::string fill(std::string_view form, std::string_view phrase) {
  const std::size_t at = form.find("{}");
  if (at == std::string_view::npos) return std::string(form);
  return std::string(form.substr(0, at)).append(phrase).append(form.substr(at + 2));
}

std::string explanatory_question(std::string_view sentence, std::size_t which) {
  return plain_question(sentence) + " " + std::string(kExplanatoryQuestions.at(which));
}

std::string plain_question(std::string_view sentence) {
  return "<image>\n" + std::string(sentence);
}

std::string validation_question(std::string_view text, bool is_sentence) {
  return fill(is_sentence ? "<image>\n {} Please output segmentation mask."
                          : "<image>\n What is {} in this image? Please output segmentation mask.",
              strip(text));
}

std::string lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  char32_t before = 0;
  for (std::size_t at = 0; at < text.size();) {
    const char32_t code = next_code_point(text, at);
    if (code == kCapitalIWithDot) {
      out += "i\xCC\x87";
    } else if (code == kCapitalSigma) {  // at the end of a word it becomes ς
      std::size_t peek = at;
      const bool last = is_letter(before) && (at >= text.size() || !is_letter(next_code_point(text, peek)));
      append_utf8(out, last ? 0x3C2 : 0x3C3);
    } else {
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))));
    }
    before = code;
  }
  return out;
}

}  // namespace tessera::text
