#include "llava_sequence.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "lisa_sequence.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"
#include "tessera/nn/upload.hpp"

namespace tessera::models {
namespace {

std::vector<std::int64_t> to_host(const at::Tensor& values) {
  const at::Tensor flat = values.to(at::kCPU, at::kLong).contiguous();
  const auto* data = flat.data_ptr<std::int64_t>();
  return {data, data + flat.numel()};
}

void require(bool good, const std::string& text) {
  if (!good) throw RequestError("LLaVA batch: {}", text);
}

/// One row of the sequence: the places of its positions, and which position of the text each comes from (-1: an image).
struct Row {
  std::vector<std::int64_t> places;
  std::vector<std::int64_t> text;
  std::size_t first_image = 0, images = 0;  ///< it takes
};

/// The batch in host memory.
struct Host {
  std::int64_t rows, length;
  std::vector<std::int64_t> pictures;  ///< positions of each
  std::vector<std::int64_t> ids, mask;
  std::int64_t id(std::int64_t row, std::int64_t t) const { return ids[static_cast<std::size_t>(row * length + t)]; }
  bool real(std::int64_t row, std::int64_t t) const { return mask[static_cast<std::size_t>(row * length + t)] != 0; }
  std::int64_t first_feature() const { return rows * length; }
  std::int64_t features() const { return std::accumulate(pictures.begin(), pictures.end(), std::int64_t{0}); }
  std::int64_t zero_row() const { return rows * length + features(); }
};

/// Row by row as the reference does: padding is dropped, each placeholder becomes the next image's features.
std::vector<Row> splice_rows(const Host& host, std::int64_t max_length) {
  std::vector<Row> rows;
  std::size_t next = 0;
  std::int64_t feature = host.first_feature();
  const auto take = [&](std::vector<std::int64_t>* places) {
    const std::int64_t count = next < host.pictures.size() ? host.pictures[next] : 0;
    ++next;
    for (std::int64_t p = 0; places != nullptr && p < count; ++p) places->push_back(feature + p);
    feature += count;
  };
  for (std::int64_t b = 0; b < host.rows; ++b) {
    Row row;
    const std::size_t before = next;
    for (std::int64_t t = 0; t < host.length; ++t) {
      if (!host.real(b, t)) continue;
      if (host.id(b, t) != kImageToken) {
        row.places.push_back(b * host.length + t);
        row.text.push_back(t);
        continue;
      }
      take(&row.places);
      row.text.resize(row.places.size(), -1);
    }
    if (next == before) take(nullptr);  // a row without a placeholder takes one image and uses none of it
    row.first_image = before;
    row.images = next - before;
    if (max_length > 0 && static_cast<std::int64_t>(row.places.size()) > max_length) {
      row.places.resize(static_cast<std::size_t>(max_length));
      row.text.resize(static_cast<std::size_t>(max_length));
    }
    rows.push_back(std::move(row));
  }
  require(next == host.pictures.size(), fmt::format("its rows take {} images (one for each -200, one for a row "
                                                    "without), there are {}",
                                                    next, host.pictures.size()));
  return rows;
}

/// Rows of one length: `fill` where there is nothing.
at::Tensor padded(const std::vector<std::vector<std::int64_t>>& rows, std::int64_t length, bool left,
                  std::int64_t fill) {
  std::vector<std::int64_t> flat;
  for (const auto& row : rows) {
    const auto missing = static_cast<std::size_t>(length) - row.size();
    if (left) flat.insert(flat.end(), missing, fill);
    flat.insert(flat.end(), row.begin(), row.end());
    if (!left) flat.insert(flat.end(), missing, fill);
  }
  return at::tensor(flat, at::TensorOptions().dtype(at::kLong)).view({static_cast<std::int64_t>(rows.size()), length});
}

/// What the tower sees of row b, `count` images from `first` on, is named: image after image, tile after tile.
void name_images(LlavaPlan& plan, const LlavaBatch& batch, std::int64_t b, std::size_t first, std::size_t count) {
  if (batch.sample_keys.empty()) return;
  std::int64_t views = 0;
  for (std::size_t i = first; i < first + count; ++i) views += batch.pictures.empty() ? 1 : batch.pictures.at(i).tiles;
  for (std::int64_t i = 0; i < views; ++i)
    plan.image_keys.push_back(mix_keys(batch.sample_keys.at(static_cast<std::size_t>(b)), i));
}

LlavaPlan plan_original(const LlavaBatch& batch, const Host& host, const LlavaConfig& config) {
  const std::vector<Row> rows = splice_rows(host, batch.max_length > 0 ? batch.max_length : config.max_length);
  std::size_t longest = 0;
  for (const Row& row : rows) longest = std::max(longest, row.places.size());
  const auto length = static_cast<std::int64_t>(longest);
  const std::vector<std::int64_t> labels = batch.labels.defined() ? to_host(batch.labels) : std::vector<std::int64_t>{};
  std::vector<std::vector<std::int64_t>> places, kept, scored;
  LlavaPlan plan;
  for (std::size_t b = 0; b < rows.size(); ++b) {
    name_images(plan, batch, static_cast<std::int64_t>(b), rows[b].first_image, rows[b].images);
    places.push_back(rows[b].places);
    kept.emplace_back(rows[b].places.size(), 1);
    if (labels.empty()) continue;
    scored.emplace_back();
    for (const std::int64_t t : rows[b].text) {
      scored.back().push_back(t < 0 ? kIgnoreLabel
                                    : labels[b * static_cast<std::size_t>(host.length) + static_cast<std::size_t>(t)]);
    }
  }
  plan.index = padded(places, length, config.pad_left, host.zero_row()).flatten();
  plan.mask = padded(kept, length, config.pad_left, 0).to(at::kBool);
  if (batch.labels.defined()) plan.labels = padded(scored, length, config.pad_left, kIgnoreLabel);
  return plan;
}

/// Placeholders are as many as features, one after another through the batch.
LlavaPlan plan_expanded(const LlavaBatch& batch, const Host& host, const LlavaConfig& config) {
  std::vector<std::int64_t> places;
  LlavaPlan plan;
  std::int64_t next = 0, reached = 0;
  std::size_t picture = 0;
  for (std::int64_t b = 0; b < host.rows; ++b) {
    const std::size_t first = picture;
    for (std::int64_t t = 0; t < host.length; ++t) {
      const bool image = !host.pictures.empty() && host.id(b, t) == config.image_token;
      places.push_back(image ? host.first_feature() + next++ : b * host.length + t);
    }
    while (picture < host.pictures.size() && reached < next) reached += host.pictures[picture++];
    name_images(plan, batch, b, first, picture - first);
  }
  require(next == host.features(), fmt::format("{} image placeholders (id {}), but {} images of {} features in all",
                                               next, config.image_token, host.pictures.size(), host.features()));
  plan.index = at::tensor(places, at::TensorOptions().dtype(at::kLong));
  plan.mask = batch.attention_mask.defined() ? batch.attention_mask.to(at::kCPU, at::kBool)
                                             : at::ones(batch.input_ids.sizes(), at::kBool);
  plan.labels = batch.labels.defined() ? batch.labels.to(at::kCPU) : batch.labels;
  return plan;
}

/// Images of the batch and features of each: of pictures, or of what the tower made of them before.
std::pair<std::int64_t, std::int64_t> count_pictures(const LlavaBatch& batch, const LlavaConfig& config) {
  if (const at::Tensor& features = batch.image_features; features.defined()) {
    require(features.dim() == 3 && features.size(2) == config.tower.width(),
            fmt::format("image_features must be [N,P,{}]", config.tower.width()));
    return {features.size(0), features.size(1)};
  }
  require(batch.images.defined() && batch.images.dim() == 4 && batch.images.size(1) == 3,
          "pictures must be [N,3,height,width]");
  return {batch.images.size(0), config.tower.tokens(batch.images.size(2), batch.images.size(3))};
}

/// Positions of each picture.
std::vector<std::int64_t> measure_pictures(const LlavaBatch& batch, const LlavaConfig& config) {
  const auto [images, tokens] = count_pictures(batch, config);
  std::vector<std::int64_t> positions(static_cast<std::size_t>(images), tokens);
  if (batch.pictures.empty()) return positions;
  require(config.tiles.has_value(), "its pictures are in tiles, and image_aspect_ratio is not anyres");
  positions.clear();
  std::int64_t tiles = 0;
  for (const TiledPicture& picture : batch.pictures) {
    require(picture.tiles > 0, fmt::format("a picture in {} tiles", picture.tiles));
    positions.push_back(config.tiles->positions(picture));
    tiles += picture.tiles;
  }
  require(tiles == images,
          fmt::format("{} pictures in {} tiles in all, there are {}", positions.size(), tiles, images));
  return positions;
}

Host to_host_batch(const LlavaBatch& batch, const LlavaConfig& config) {
  require(batch.input_ids.defined() && batch.input_ids.dim() == 2, "input_ids must be [B,L]");
  for (const at::Tensor& other : {batch.attention_mask, batch.labels}) {
    require(!other.defined() || other.sizes() == batch.input_ids.sizes(),
            "attention_mask and labels must be shaped like input_ids");
  }
  Host host{batch.input_ids.size(0), batch.input_ids.size(1), measure_pictures(batch, config), {}, {}};
  host.ids = to_host(batch.input_ids);
  host.mask =
      batch.attention_mask.defined() ? to_host(batch.attention_mask) : std::vector<std::int64_t>(host.ids.size(), 1);
  const std::int64_t placeholder = batch.expanded ? config.image_token : kImageToken;
  for (std::int64_t b = 0; b < host.rows; ++b) {
    for (std::int64_t t = 0; t < host.length; ++t) {
      const std::int64_t id = host.id(b, t);
      // A padded id is embedded and then dropped, so it must be in the table as well.
      require(id == placeholder || (id >= 0 && id < config.language.vocab_size()),
              fmt::format("row {}, position {}: id {} is outside the vocabulary of {}", b, t, id,
                          config.language.vocab_size()));
    }
  }
  return host;
}

}  // namespace

LlavaPlan plan_llava(const LlavaBatch& batch, const LlavaConfig& config) {
  require(!batch.expanded || config.image_token >= 0 || count_pictures(batch, config).first == 0,
          "the config names no image_token_index, so its placeholders are -200 (input `images`)");
  const Host host = to_host_batch(batch, config);
  LlavaPlan plan = batch.expanded ? plan_expanded(batch, host, config) : plan_original(batch, host, config);
  const std::int64_t placeholder = batch.expanded ? config.image_token : kImageToken;
  // Without pictures a placeholder of transformers' form is an ordinary id.
  const bool replaces = !batch.expanded || !host.pictures.empty();
  const at::Tensor ids = batch.input_ids.to(at::kCPU);
  plan.ids = replaces ? at::where(ids.eq(placeholder), at::zeros({1}, ids.options()), ids) : ids;
  return plan;
}

at::Tensor place(const LlavaPlan& plan, const at::Tensor& text, const at::Tensor& features) {
  const std::int64_t width = text.size(2);
  const at::Tensor nothing = at::zeros({1, width}, text.options().requires_grad(false));
  const at::Tensor rows =
      at::cat({text.reshape({-1, width}), features.to(text.scalar_type()).reshape({-1, width}), nothing});
  return rows.index_select(0, nn::upload(plan.index, rows.device()))
      .view({plan.mask.size(0), plan.mask.size(1), width});
}

}  // namespace tessera::models
