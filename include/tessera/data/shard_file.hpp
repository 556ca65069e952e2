#pragma once
/// ShardFile: one shard open for reading. The index (offsets, sizes, rows) is in memory, the bulk is read sample by
/// sample.
///
/// Reading a sample is safe from several threads; one at a time is inside the HDF5 library, which takes no more, while
/// decoding and all else run side by side.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tessera/data/shard.hpp"
#include "tessera/image/image.hpp"
#include "tessera/image/rle.hpp"

namespace tessera::data {

struct StoredConversation {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> labels;
  std::string text;      ///< "" where the shard has none
  std::string question;  ///< "" where the shard has none
};

/// What towers made of one image: bits of bf16, in the order of the shape. Null where it was not asked for.
struct StoredFeatures {
  std::shared_ptr<const std::uint16_t[]> clip, sam;
};

struct StoredImage {
  std::string name;
  std::vector<std::uint8_t> bytes;  ///< encoded
  image::Size size;
  StoredFeatures features = {};
};

/// What is read of a sample's images.
struct ReadImages {
  bool bytes = true;
  bool clip = false, sam = false;  ///< the towers' features, where the shard has them
};

/// One row of the sample table with all that belongs to it.
struct StoredSample {
  std::string where;                ///< "<file> sample 12", for messages
  std::string image_name;           ///< of the first image; empty for text alone
  std::vector<std::uint8_t> image;  ///< encoded
  image::Size size;                 ///< 0 x 0 for text alone
  StoredFeatures features = {};     ///< of the first image
  std::vector<StoredImage> more_images = {};
  bool has_image() const noexcept { return size.height > 0; }
  std::int32_t source = 0;
  std::int64_t item = 0;
  std::int32_t draw = 0;
  std::uint8_t is_sentence = kSentenceUnknown;
  std::vector<StoredConversation> conversations;
  std::vector<image::Rle> targets;  ///< one per [SEG]
  std::optional<image::Rle> ignore;
};

/// What a shard's tables say of one sample, without reading its bulk.
struct SampleSizes {
  std::int64_t images = 0;
  std::int64_t image_bytes = 0;  ///< of all images
  image::Size size;              ///< of the first image
  std::int64_t conversations = 0;
  std::int64_t longest_tokens = 0;
  std::int64_t tokens = 0;
  std::int64_t targets = 0;
  std::int64_t words = 0;  ///< length by which LLaVA's sampler groups; tokens where the shard does not say
};

class ShardFile {
 public:
  /// Opens and checks: every table is there, of its type and length, indices in range, offsets rising. Throws
  /// RequestError naming the file: no HDF5 file, cut short, no shard, a newer major version, a table that contradicts
  /// another.
  explicit ShardFile(const std::filesystem::path& path);
  ShardFile(ShardFile&&) noexcept;
  ShardFile& operator=(ShardFile&&) noexcept;
  ~ShardFile();

  const std::filesystem::path& path() const noexcept;
  const ShardHeader& header() const noexcept;
  std::int64_t samples() const noexcept;
  std::int64_t images() const noexcept;
  std::int64_t masks() const noexcept;
  const std::vector<std::string>& source_names() const noexcept;
  const std::vector<std::string>& source_families() const noexcept;
  std::int32_t source_of(std::int64_t sample) const;
  std::int64_t item_of(std::int64_t sample) const;
  /// Rows of the images, in the order of their places in the text.
  std::vector<std::int32_t> images_of(std::int64_t sample) const;
  SampleSizes sizes_of(std::int64_t sample) const;
  image::Size image_size(std::int64_t image) const;
  std::int64_t image_bytes(std::int64_t image) const;  ///< encoded
  std::vector<std::int64_t> token_lengths() const;     ///< of every conversation
  std::vector<std::string> skipped() const;            ///< JSON objects
  std::vector<TowerFeatures> features() const;         ///< of its images

  /// Throws RunError naming file and sample when image, features, tokens or masks do not have their recorded digest, or
  /// a run-length text is broken.
  StoredSample read(std::int64_t sample, const ReadImages& what = {}) const;

  /// Reads the whole file and compares every recorded checksum, then every sample. One line for each fault; empty:
  /// sound.
  std::vector<std::string> verify() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::data
