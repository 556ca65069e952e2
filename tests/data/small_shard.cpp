#include "data/small_shard.hpp"

#include "data/toy.hpp"
#include "tessera/core/hash.hpp"
#include "tessera/image/image.hpp"
#include "tessera/image/rle.hpp"

namespace tessera::data {

ShardHeader small_header() {
  ShardHeader header;
  header.tokenizer_hash = "0123456789abcdef0123456789abcdef";
  header.conversation_template = "llava_v1";
  header.seg_token_id = kSmallSeg;
  header.im_start_id = 501;
  header.im_end_id = 502;
  header.pad_id = 0;
  header.bos_id = 1;
  header.eos_id = 2;
  header.made_by = "tests";
  header.plan = "plan";
  return header;
}

namespace {

void add_image(ShardData& data, std::size_t number) {
  const auto bytes = testing_support::read_file(toy::photograph(number));
  const auto size = image::probe(image::bytes_of(bytes), "photograph").oriented();
  const std::span row(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  data.images.bytes.add(row);
  data.images.height.push_back(static_cast<std::int32_t>(size.height));
  data.images.width.push_back(static_cast<std::int32_t>(size.width));
  data.images.name.add("photo" + std::to_string(number) + ".jpg");
  data.images.digest.push_back(static_cast<std::int64_t>(xxh3_64(row.data(), row.size())));
}

/// A rectangle in image `image`.
void add_mask(ShardData& data, std::size_t image, std::int64_t top, std::int64_t bottom) {
  image::Mask mask(data.images.height[image], data.images.width[image]);
  for (auto y = top; y < bottom; ++y) std::fill_n(mask.row(y) + 3, 5, std::uint8_t{1});
  const auto counts = image::rle_to_string(image::rle_encode(mask));
  data.masks.counts.add(std::span(reinterpret_cast<const std::uint8_t*>(counts.data()), counts.size()));
  data.masks.height.push_back(data.images.height[image]);
  data.masks.width.push_back(data.images.width[image]);
}

void add_conversation(ShardData& data, const std::vector<std::int32_t>& ids, std::size_t supervised) {
  data.conversations.ids.add(ids);
  auto labels = ids;
  std::fill(labels.begin(), labels.end() - static_cast<std::ptrdiff_t>(supervised), -100);
  data.conversations.labels.add(labels);
  data.conversations.text.add("text of " + std::to_string(ids.size()) + " tokens");
  data.conversations.question.add("question " + std::to_string(data.conversations.ids.rows()));
}

void end_sample(ShardData& data, std::int32_t image, std::int32_t source, std::int64_t item, std::int32_t draw) {
  auto& samples = data.samples;
  samples.image.push_back(image);
  samples.source.push_back(source);
  samples.item.push_back(item);
  samples.draw.push_back(draw);
  samples.is_sentence.push_back(static_cast<std::uint8_t>(draw));
  samples.ignore_mask.push_back(-1);
  samples.choices.add(std::vector<std::int32_t>{draw, 7});
  samples.conversation_offsets.push_back(data.conversations.ids.rows());
  samples.target_offsets.push_back(static_cast<std::int64_t>(data.target_mask.size()));
}

}  // namespace

ShardData small_shard() {
  ShardData data;
  data.sources.name.add("reason_seg/ReasonSeg/train");
  data.sources.family.add("reason_seg");
  data.sources.name.add("vqa/talk");
  data.sources.family.add("vqa");
  add_image(data, 0);
  add_image(data, 1);
  add_mask(data, 0, 10, 50);
  add_mask(data, 0, 60, 61);
  // Sample 0: two conversations, both about mask 0. Sample 1: its second draw, one conversation about mask 1.
  add_conversation(data, {1, 501, -200, 502, 10, 11, 12, 500, 2}, 3);
  add_conversation(data, {1, 501, -200, 502, 13, 500, 2}, 2);
  data.target_mask = {0, 0};
  end_sample(data, 0, 0, 4, 0);
  add_conversation(data, {1, 501, -200, 502, 14, 15, 500, 2}, 2);
  data.target_mask.push_back(1);
  end_sample(data, 0, 0, 4, 1);
  // Sample 2: words alone.
  add_conversation(data, {1, 501, -200, 502, 20, 21, 22, 23, 24, 25, 26, 27, 2}, 5);
  end_sample(data, 1, 1, 0, 0);
  data.samples.ignore_mask[1] = 0;
  return data;
}

}  // namespace tessera::data
