#pragma once
/// LISA's question and answer phrases. The wording is part of the data that published models were trained on.
/// Source: utils/utils.py of dvlab-research/LISA (Apache-2.0); `{}` stands where the reference names a field.
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace tessera::text {

/// Short question: `{}` is the class name or phrase, in lower case.
inline constexpr std::array<std::string_view, 4> kShortQuestions = {
    "<image>\nCan you segment the {} in this image?",
    "<image>\nPlease segment the {} in this image.",
    "<image>\nWhat is {} in this image? Please respond with segmentation mask.",
    "<image>\nWhat is {} in this image? Please output segmentation mask.",
};

/// Long question: `{}` is the whole sentence.
inline constexpr std::array<std::string_view, 2> kLongQuestions = {
    "<image>\n{} Please respond with segmentation mask.",
    "<image>\n{} Please output segmentation mask.",
};

/// Follows `<image>\n`, the sentence and a space when an explanation is wanted.
inline constexpr std::array<std::string_view, 3> kExplanatoryQuestions = {
    "Please output segmentation mask and explain why.",
    "Please output segmentation mask and explain the reason.",
    "Please output segmentation mask and give some explanation.",
};

inline constexpr std::array<std::string_view, 5> kAnswers = {
    "It is [SEG].", "Sure, [SEG].", "Sure, it is [SEG].", "Sure, the segmentation result is [SEG].", "[SEG].",
};

/// `form` with `{}` replaced by `phrase`.
std::string fill(std::string_view form, std::string_view phrase);

/// The question of an explanatory sample: image, sentence, one of kExplanatoryQuestions.
std::string explanatory_question(std::string_view sentence, std::size_t which);
/// The question whose answer is the explanation alone.
std::string plain_question(std::string_view sentence);

/// Questions of the validation set: a space after the newline, text not lowered, one wording each.
std::string validation_question(std::string_view text, bool is_sentence);
inline constexpr std::string_view kValidationAnswer = "[SEG].";

/// str.lower() for class names and phrases: full Unicode lower case, one code point at a time.
std::string lower(std::string_view text);

}  // namespace tessera::text
