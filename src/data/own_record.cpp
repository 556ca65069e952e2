#include "data/own_record.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "data/paths.hpp"
#include "tessera/core/file.hpp"
#include "tessera/text/image_tokens.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

[[noreturn]] void broken(const fs::path& path, const std::string& where, std::string why) {
  throw BrokenSample({path.string(), where, std::move(why)});
}

/// Refuses fields that mean nothing here: a misspelt one would silently be left out.
void know_fields(const json& object, std::initializer_list<std::string_view> known, const fs::path& path,
                 const std::string& where) {
  for (const auto& [name, value] : as_object(object, path, where).items()) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      broken(path, where, fmt::format("unknown field '{}'", name));
    }
  }
}

OwnMask read_mask(const json& value, const fs::path& path, const std::string& where) {
  if (value.is_string()) return {where, OwnPng{value.get<std::string>(), {}}};
  know_fields(value, {"png", "value", "rle", "polygons"}, path, where);
  const auto given = value.contains("png") + value.contains("rle") + value.contains("polygons");
  if (given != 1) broken(path, where, "a mask is one of png, rle, polygons");
  if (value.contains("png")) {
    OwnPng png{string_field(value, "png", path, where), {}};
    if (value.contains("value")) {
      const auto& number = value["value"];
      if (!number.is_number_integer() || number.get<double>() < 0 || number.get<double>() > 255) {
        broken(path, where + ".value", "expected a whole number from 0 to 255");
      }
      png.value = number.get<std::int64_t>();
    }
    return {where, std::move(png)};
  }
  const char* kind = value.contains("rle") ? "rle" : "polygons";
  const auto place = fmt::format("{}.{}", where, kind);
  auto shape = read_segmentation(value[kind], path, place);
  if (auto* runs = std::get_if<std::vector<CocoRuns>>(&shape)) {
    if (value.contains("polygons") || runs->size() != 1) broken(path, place, "expected one {size, counts}");
    return {place, std::move(runs->front())};
  }
  if (value.contains("rle")) broken(path, place, "expected {size, counts}");
  return {place, std::move(std::get<CocoPolygons>(shape))};
}

std::string text_field(const json& object, std::string_view name, const fs::path& path, const std::string& where) {
  auto text = string_field(object, name, path, where);
  if (strip(text).empty()) broken(path, fmt::format("{}.{}", where, name), "an empty text");
  return text;
}

std::vector<std::string> read_messages(const json& value, const fs::path& path, const std::string& where) {
  if (value.contains("question")) {
    std::vector<std::string> messages{text_field(value, "question", path, where)};
    if (value.contains("answer")) messages.push_back(text_field(value, "answer", path, where));
    return messages;
  }
  std::vector<std::string> messages;
  for (const auto& message : as_array(value["conversation"], path, where + ".conversation")) {
    messages.push_back(as_string(message, path, fmt::format("{}.conversation[{}]", where, messages.size())));
  }
  if (messages.empty() || messages.size() % 2 != 0) {
    broken(path, where + ".conversation", "expected questions and answers in turn");
  }
  return messages;
}

OwnQuestion read_question(const json& value, const fs::path& path, const std::string& where) {
  know_fields(value, {"label", "question", "answer", "conversation", "mask", "masks"}, path, where);
  const auto given = value.contains("label") + value.contains("question") + value.contains("conversation");
  if (given != 1) broken(path, where, "one of label, question, conversation is needed");
  if (value.contains("answer") && !value.contains("question")) broken(path, where, "an answer without a question");
  OwnQuestion question;
  if (value.contains("mask")) question.masks.push_back(read_mask(value["mask"], path, where + ".mask"));
  if (value.contains("masks")) {
    for (const auto& mask : as_array(value["masks"], path, where + ".masks")) {
      question.masks.push_back(read_mask(mask, path, fmt::format("{}.masks[{}]", where, question.masks.size())));
    }
  }
  if (value.contains("label")) {
    question.label = std::string(strip(text_field(value, "label", path, where)));
  } else {
    question.messages = read_messages(value, path, where);
  }
  // Without an answer of its own it gets one with a single [SEG].
  if (question.messages.size() < 2 && question.masks.size() != 1) {
    broken(path, where,
           fmt::format("{} masks for an answer that is to be drawn, which has one", question.masks.size()));
  }
  return question;
}

image::Rle draw_png(const OwnPng& png, image::Size size, const fs::path& folder) {
  const auto file = folder / png.file;
  if (!stays_inside(png.file)) broken(file, "", "the path leaves the data set folder");
  if (!fs::exists(file)) broken(file, "", "the mask is missing");
  image::LabelMap map;
  try {
    map = image::decode_label_map(image::bytes_of(read_file(file)), "mask");
  } catch (const RequestError& error) {
    broken(file, "", error.what());
  }
  if (map.size() != size) {
    broken(file, "",
           fmt::format("{} x {} pixels for an image of {} x {}", map.width, map.height, size.width, size.height));
  }
  image::Mask mask(size.height, size.width);
  std::transform(map.values.begin(), map.values.end(), mask.data.begin(), [&](std::uint8_t value) {
    return static_cast<std::uint8_t>(png.value ? value == *png.value : value != 0);
  });
  return image::rle_encode(mask);
}

}  // namespace

OwnRecord read_own_record(const json& record, const fs::path& path, const std::string& where) {
  know_fields(record, {"image", "questions", "ignore", "id"}, path, where);
  OwnRecord out;
  out.where = where;
  out.image = text_field(record, "image", path, where);
  const auto& questions = as_array(field(record, "questions", path, where), path, where + ".questions");
  if (questions.empty()) broken(path, where + ".questions", "no question about the image");
  for (std::size_t q = 0; q < questions.size(); ++q) {
    out.questions.push_back(read_question(questions[q], path, fmt::format("{}.questions[{}]", where, q)));
  }
  if (record.contains("ignore")) out.ignore = read_mask(record["ignore"], path, where + ".ignore");
  return out;
}

image::Rle draw_own_mask(const OwnMask& mask, image::Size size, const fs::path& folder, const fs::path& path) {
  if (const auto* png = std::get_if<OwnPng>(&mask.shape)) return draw_png(*png, size, folder);
  CocoAnnotation annotation;
  annotation.where = mask.where;
  if (const auto* runs = std::get_if<CocoRuns>(&mask.shape)) {
    annotation.segmentation = std::vector<CocoRuns>{*runs};
  } else {
    annotation.segmentation = std::get<CocoPolygons>(mask.shape);
  }
  return mask_of(annotation, size, path);
}

}  // namespace tessera::data
