#pragma once
// A record of a folder of one's own data, checked but for the pixels of its masks.
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "data/annotation_json.hpp"
#include "data/coco.hpp"

namespace tessera::data {

struct OwnPng {
  std::string file;                   ///< relative to the folder
  std::optional<std::int64_t> value;  ///< which pixels are inside; absent: all that are not 0
};

struct OwnMask {
  std::string where;
  std::variant<OwnPng, CocoRuns, CocoPolygons> shape;
};

struct OwnQuestion {
  std::string label;                  ///< of a class or phrase; empty: `messages` say what is asked
  std::vector<std::string> messages;  ///< question, answer, question, …; the last answer may be missing: it is drawn
  std::vector<OwnMask> masks;
};

struct OwnRecord {
  std::string where;
  std::string image;
  std::vector<OwnQuestion> questions;
  std::optional<OwnMask> ignore;
};

/// Throws BrokenSample naming the field.
OwnRecord read_own_record(const nlohmann::json& record, const std::filesystem::path& path, const std::string& where);

/// The mask at the image's size. Throws BrokenSample: a PNG that is missing, does not decode or has another size, run
/// lengths that overrun, a polygon of fewer than three points.
image::Rle draw_own_mask(const OwnMask& mask, image::Size size, const std::filesystem::path& folder,
                         const std::filesystem::path& path);

}  // namespace tessera::data
