#pragma once
/// Reader: one data set in its original folder layout, as items that become samples. One subclass per family.
///
/// Enumerating is cheap (listings and indices, no pixels), the same on every rank, and in an order that depends on the
/// data set alone. make() is pure and may be called from several threads: equal arguments give equal samples.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tessera/data/choices.hpp"
#include "tessera/data/problem.hpp"
#include "tessera/data/sample.hpp"
#include "tessera/image/image.hpp"

namespace tessera::data {

struct Item {
  std::string name;                           ///< unique in its source; random draws are keyed by it
  std::string image;                          ///< path relative to image_folder(), with '/'; empty: text alone
  std::vector<std::string> more_images = {};  ///< likewise, in the order of their places in the text
};

class Reader {
 public:
  virtual ~Reader() = default;
  virtual const std::string& source() const noexcept = 0;  ///< e.g. "reason_seg/ReasonSeg/train"
  virtual const std::string& family() const noexcept = 0;  ///< "sem_seg", "refer_seg", "vqa", "llava", …
  /// What the items' images are relative to, and must not leave; empty: the data set folder.
  virtual std::filesystem::path image_folder() const { return {}; }
  virtual const std::vector<Item>& items() const noexcept = 0;
  /// Files beside the item's images that decide what its samples say: annotations, label maps. What an edited one
  /// decides is prepared anew.
  virtual std::vector<std::filesystem::path> decided_by(std::int64_t item) const = 0;
  /// What enumerating found broken, beyond any single item.
  virtual const std::vector<Problem>& problems() const noexcept = 0;
  /// The samples of items()[item], whose image has the given size: one for each element of `draws`, which decides for
  /// it; of text alone the size is 0 x 0. Throws BrokenSample.
  virtual ItemSamples make(std::int64_t item, image::Size size, std::span<Choices> draws) const = 0;
};

}  // namespace tessera::data
