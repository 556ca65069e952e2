#pragma once
/// What a reader makes of one item of a data set, before tokens: an image's masks, and samples that refer to them.
///
/// Terms: an item is what a data set holds (an image with its annotations); a sample is one random draw of an item
/// (which questions, which templates), LISA's unit of training; a target is the mask that one [SEG] stands for.
#include <cstdint>
#include <string>
#include <vector>

#include "tessera/image/rle.hpp"

namespace tessera::data {

/// One conversation about the image.
struct Conversation {
  std::vector<std::string> messages;  ///< user, assistant, user, …; the first holds the image tag
  std::string question;               ///< the bare instruction or class name, for people and for evaluation
  bool as_written = false;            ///< `<image>` may stand anywhere; it is still to be brought to the front
  std::int64_t words = -1;            ///< of the record as its owner wrote it; -1: those of the messages
};

struct Sample {
  std::vector<Conversation> conversations;
  std::vector<std::int32_t> targets;  ///< index into ItemSamples::masks, one per [SEG], in order
  std::uint8_t is_sentence = 255;     ///< 1 long question, 0 short one, 255 not said
};

/// One sample for each draw of an item; they share the masks.
struct ItemSamples {
  std::vector<image::Rle> masks;
  std::int32_t ignore_mask = -1;  ///< index into masks of the pixels no score may count, -1 for none
  std::vector<Sample> samples;
};

}  // namespace tessera::data
