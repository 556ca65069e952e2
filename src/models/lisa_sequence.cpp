#include "lisa_sequence.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"

namespace tessera::models {
namespace {

/// The integers of a tensor in host memory, in row-major order.
std::vector<std::int64_t> to_host(const at::Tensor& values) {
  const at::Tensor flat = values.to(at::kCPU, at::kLong).contiguous();
  const auto* data = flat.data_ptr<std::int64_t>();
  return {data, data + flat.numel()};
}

void require(bool good, const std::string& text) {
  if (!good) throw RequestError("LISA batch: {}", text);
}

std::string shape_of(const at::Tensor& t) {
  return t.defined() ? fmt::format("[{}]", fmt::join(t.sizes(), ",")) : "absent";
}

/// Each tower has pictures, or else its own features.
void check_pictures(const LisaBatch& batch, const LisaConfig& config) {
  const auto images = batch.images_count();
  const auto count = [&](const char* name, const at::Tensor& t) {
    require(t.defined() && t.size(0) == images,
            fmt::format("{} {} for {} images in offset", name, shape_of(t), images));
  };
  const auto shape = [&](const char* name, const at::Tensor& t, const std::vector<std::int64_t>& wanted) {
    require(t.sizes() == at::IntArrayRef(wanted),
            fmt::format("{} {} where [{}] is expected", name, shape_of(t), fmt::join(wanted, ",")));
  };
  if (!batch.sam_features.defined()) {
    count("images", batch.images);
  } else {
    const auto side = config.sam.grid();
    shape("sam_features", batch.sam_features, {images, config.sam.prompt_embed_dim, side, side});
  }
  if (!batch.clip_features.defined()) {
    const at::Tensor& seen = batch.images_clip;
    count("images_clip", seen);
    require(seen.dim() == 4 && config.tower.tokens(seen.size(2), seen.size(3)) == config.tower.tokens(),
            fmt::format("images_clip {} for a tower of {} pixels a side", shape_of(seen), config.tower.image_size()));
  } else {
    shape("clip_features", batch.clip_features, {images, config.tower.tokens(), config.tower.width()});
  }
}

void check_shapes(const LisaBatch& batch, const LisaConfig& config, bool need_labels) {
  require(!batch.offset.empty() && batch.offset.front() == 0, "offset must begin with 0");
  const auto images = static_cast<std::size_t>(batch.images_count());
  require(batch.input_ids.defined() && batch.input_ids.dim() == 2,
          "input_ids must be [C,L], are " + shape_of(batch.input_ids));
  const auto same = [&](const at::Tensor& t) { return t.defined() && t.sizes() == batch.input_ids.sizes(); };
  require(same(batch.attention_mask), fmt::format("attention_mask {} is not shaped like input_ids {}",
                                                  shape_of(batch.attention_mask), shape_of(batch.input_ids)));
  require(!need_labels || same(batch.labels),
          fmt::format("labels {} are not shaped like input_ids {}", shape_of(batch.labels), shape_of(batch.input_ids)));
  for (std::size_t b = 0; b < images; ++b) {
    require(batch.offset[b] <= batch.offset[b + 1], fmt::format("offset falls at image {}", b));
  }
  require(batch.offset.back() == batch.input_ids.size(0),
          fmt::format("offset ends at {}, there are {} conversations", batch.offset.back(), batch.input_ids.size(0)));
  check_pictures(batch, config);
  require(batch.resize.size() == images && batch.original.size() == images,
          "resize and original need one size per image");
  require(batch.masks.empty() || batch.masks.size() == images, "masks need one tensor per image");
  for (std::size_t b = 0; b < images; ++b) {
    const ImageSize& size = batch.resize[b];
    require(size.height > 0 && size.width > 0 && size.height <= config.sam.image_size &&
                size.width <= config.sam.image_size,
            fmt::format("image {}: resized to {}x{}, which does not fit SAM's {}", b, size.height, size.width,
                        config.sam.image_size));
    require(batch.original[b].height > 0 && batch.original[b].width > 0,
            fmt::format("image {}: empty original size", b));
  }
}

/// The column of each row's one placeholder.
std::vector<std::int64_t> find_placeholders(const std::vector<std::int64_t>& ids, std::int64_t rows,
                                            std::int64_t length, std::int64_t vocabulary) {
  std::vector<std::int64_t> columns;
  for (std::int64_t c = 0; c < rows; ++c) {
    std::int64_t found = -1;
    for (std::int64_t t = 0; t < length; ++t) {
      const std::int64_t id = ids[static_cast<std::size_t>(c * length + t)];
      if (id == kImageToken) {
        require(found < 0, fmt::format("conversation {}: more than one image placeholder", c));
        found = t;
      } else {
        require(
            id >= 0 && id < vocabulary,
            fmt::format("conversation {}, position {}: id {} is outside the vocabulary of {}", c, t, id, vocabulary));
      }
    }
    require(found >= 0, fmt::format("conversation {}: no image placeholder (-200)", c));
    columns.push_back(found);
  }
  return columns;
}

/// [C,L] to [C,L+P-1]: P times `value` in place of the placeholder.
at::Tensor expand_at(const at::Tensor& rows, const std::vector<std::int64_t>& placeholder, std::int64_t patches,
                     std::int64_t value) {
  if (placeholder.empty()) return at::full({0, rows.size(1) + patches - 1}, value, rows.options());
  const at::Tensor filling = at::full({patches}, value, rows.options());
  std::vector<at::Tensor> expanded;
  for (std::size_t c = 0; c < placeholder.size(); ++c) {
    const at::Tensor row = rows.select(0, static_cast<std::int64_t>(c));
    const std::int64_t k = placeholder[c];
    expanded.push_back(at::cat({row.narrow(0, 0, k), filling, row.narrow(0, k + 1, rows.size(1) - k - 1)}));
  }
  return at::stack(expanded);
}

}  // namespace

LisaBatch with_placeholders(const LisaBatch& given, const LisaConfig& config) {
  LisaBatch batch = given;
  for (at::Tensor* text : {&batch.input_ids, &batch.labels, &batch.attention_mask}) {
    if (text->defined()) *text = text->to(at::kCPU);
  }
  const at::Tensor& ids = batch.input_ids;
  const std::int64_t patch = config.im_patch_token_id;
  if (patch < 0 || !ids.defined() || ids.dim() != 2 || ids.numel() == 0) return batch;
  if (!ids.eq(patch).any().item<bool>() || ids.eq(kImageToken).any().item<bool>()) return batch;
  const std::int64_t patches = config.tower.tokens();
  const std::vector<std::int64_t> flat = to_host(ids);
  std::vector<std::int64_t> kept;
  for (std::int64_t c = 0; c < ids.size(0); ++c) {
    const auto row = flat.begin() + c * ids.size(1);
    const auto end = row + ids.size(1);
    const auto first = std::find(row, end, patch);
    const auto last = std::find_if(first, end, [patch](std::int64_t id) { return id != patch; });
    require(last - first == patches && std::find(last, end, patch) == end,
            fmt::format("conversation {}: {} <im_patch> ids in {}, an image has {}", c, std::count(row, end, patch),
                        last - first == std::count(row, end, patch) ? "one run" : "several runs", patches));
    for (std::int64_t t = 0; t < ids.size(1); ++t) {
      const auto at = row + t;
      if (at <= first || at >= last) kept.push_back(c * ids.size(1) + t);
    }
  }
  const at::Tensor index = at::tensor(kept, at::TensorOptions().dtype(at::kLong));
  const auto shorter = [&](const at::Tensor& t) {
    return t.defined() ? t.reshape({-1}).index_select(0, index).view({ids.size(0), -1}) : t;
  };
  LisaBatch out = batch;
  out.input_ids = shorter(ids);
  out.input_ids = at::where(out.input_ids.eq(patch), at::full({1}, kImageToken, ids.options()), out.input_ids);
  out.labels = shorter(batch.labels);
  out.attention_mask = shorter(batch.attention_mask);
  return out;
}

LisaSequence plan_sequence(const LisaBatch& batch, const LisaConfig& config, bool need_labels) {
  check_shapes(batch, config, need_labels);
  const std::int64_t rows = batch.input_ids.size(0);
  const std::int64_t length = batch.input_ids.size(1);
  const std::int64_t patches = config.tower.tokens();
  LisaSequence plan;
  const std::vector<std::int64_t> ids = to_host(batch.input_ids);
  plan.placeholder = find_placeholders(ids, rows, length, config.language.vocab_size());
  const auto longs = at::TensorOptions().dtype(at::kLong);
  plan.ids = at::where(batch.input_ids.eq(kImageToken), at::zeros({1}, batch.input_ids.options()), batch.input_ids);
  if (need_labels) plan.labels = expand_at(batch.labels, plan.placeholder, patches, kIgnoreLabel);
  // The reference lengthens the mask on its left, whatever the placeholder's column; rows are padded on the right.
  plan.mask = at::cat({at::ones({rows, patches - 1}, at::kBool), batch.attention_mask.to(at::kBool)}, 1);

  std::vector<std::int64_t> image_of_row;
  std::vector<std::int64_t> positions;
  for (std::int64_t b = 0; b < batch.images_count(); ++b) {
    std::int64_t count = 0;
    for (std::int64_t c = batch.offset[static_cast<std::size_t>(b)]; c < batch.offset[static_cast<std::size_t>(b) + 1];
         ++c) {
      image_of_row.push_back(b);
      for (std::int64_t t = 0; t + 1 < length; ++t) {
        // Selected is the position that predicts [SEG], one before it, moved by the image's features.
        if (ids[static_cast<std::size_t>(c * length + t + 1)] != config.seg_token_id || config.seg_token_id < 0)
          continue;
        positions.insert(positions.end(), {c, t + patches - 1});
        if (!batch.sample_keys.empty())
          plan.seg_keys.push_back(mix_keys(batch.sample_keys.at(static_cast<std::size_t>(c)), t));
        ++count;
      }
    }
    plan.seg_counts.push_back(count);
    if (!batch.masks.empty()) {
      const at::Tensor& masks = batch.masks[static_cast<std::size_t>(b)];
      const ImageSize& size = batch.original[static_cast<std::size_t>(b)];
      require(masks.dim() == 3 && masks.size(0) == count,
              fmt::format("image {}: {} [SEG] in its conversations, but masks {}", b, count, shape_of(masks)));
      require(masks.size(1) == size.height && masks.size(2) == size.width,
              fmt::format("image {}: masks {} are not of the original size {}x{}", b, shape_of(masks), size.height,
                          size.width));
    }
  }
  plan.image_of_row = at::tensor(image_of_row, longs);
  plan.seg_positions = at::tensor(positions, longs).view({-1, 2});
  return plan;
}

at::Tensor splice(const at::Tensor& embeddings, const at::Tensor& features,
                  const std::vector<std::int64_t>& placeholder) {
  const std::int64_t length = embeddings.size(1);
  const bool uniform =
      std::equal(placeholder.begin() + (placeholder.empty() ? 0 : 1), placeholder.end(), placeholder.begin());
  if (uniform) {
    const std::int64_t k = placeholder.empty() ? 0 : placeholder.front();
    return at::cat({embeddings.narrow(1, 0, k), features, embeddings.narrow(1, k + 1, length - k - 1)}, 1);
  }
  std::vector<at::Tensor> rows;
  for (std::size_t c = 0; c < placeholder.size(); ++c) {
    const auto row = static_cast<std::int64_t>(c);
    const at::Tensor text = embeddings.select(0, row);
    const std::int64_t k = placeholder[c];
    rows.push_back(at::cat({text.narrow(0, 0, k), features.select(0, row), text.narrow(0, k + 1, length - k - 1)}));
  }
  return at::stack(rows);
}

}  // namespace tessera::models
