#include "tessera/train/workload.hpp"

#include <algorithm>
#include <optional>
#include <string_view>
#include <variant>

namespace tessera::train {

namespace {

bool has(const nn::Unit& unit, std::string_view part) {
  return unit.name.find(part) != std::string::npos;
}

// What a decoder of any family is for this purpose.
struct Decoder {
  std::int64_t vocabulary, hidden, inner, heads, kv_heads;
};
Decoder decoder_of(const models::LanguageConfig& config) {
  if (const auto* c = std::get_if<models::LlamaConfig>(&config.family)) {
    return {c->vocab_size, c->hidden_size, c->intermediate_size, c->heads, c->kv_heads};
  }
  const auto& c = std::get<models::MptConfig>(config.family);
  return {c.vocab_size, c.hidden_size, c.intermediate_size, c.heads, c.heads};
}

struct Trained {
  bool any = false;       // a weight of the unit itself
  bool adapters = false;  // on it
};

Trained trained(const nn::Unit& unit) {
  Trained t;
  t.adapters = unit.adapted;
  for (const auto& p : unit.params) t.any = t.any || p->trainable;
  return t;
}

std::int64_t weights(const nn::Unit& unit) {
  std::int64_t n = 0;
  for (const auto& p : unit.params) n += p->shape.size() > 1 ? p->numel() : 0;
  return n;
}

// Matrix products with the weights over `rows` inputs; backward has one product for the inputs' gradient and one for
// the weights', if they train.
void products(const nn::Unit& unit, double rows, shard::UnitWork& w) {
  w.forward_flop += 2.0 * rows * static_cast<double>(weights(unit));
  w.backward_flop += w.forward_flop * (trained(unit).any ? 2.0 : 1.0);
}

void attention(double rows, double length, double width, shard::UnitWork& w) {
  const double flop = 4.0 * rows * length * length * width;
  w.forward_flop += flop;
  w.backward_flop += 2.5 * flop;  // the scores once more, then four products
}

// Decoder layer (models/llama.cpp), in tensors of [tokens, hidden] (wide) and [tokens, inner]: the input, its norm
// where something reads it again, rotated q and k, v, attention's output, the second norm's input; gate, its
// activation, up.
shard::UnitWork decoder_layer(const nn::Unit& unit, const Decoder& c, const BatchShape& s, std::int64_t element) {
  const auto tokens = s.rows * s.length;
  const auto wide = tokens * c.hidden * element;
  const auto inner = tokens * c.inner * element;
  const auto t = trained(unit);
  const auto kv = wide * c.kv_heads / c.heads;
  shard::UnitWork w;
  w.inputs = wide;
  w.graph = 4 * wide + 2 * kv + 3 * inner;
  if (t.adapters) w.graph += 3 * wide;     // what LoRA reads, after dropout, and the dropout's masks
  if (t.any) w.graph += 5 * wide + inner;  // inputs of the trained products, and the norms' own
  // LibTorch's attention in fp32 keeps the scores; in half precision its kernels compute them again.
  const auto scores = element == 4 ? s.rows * c.heads * s.length * s.length * element : std::int64_t{0};
  w.graph += scores;
  w.forward_extra = std::max(5 * wide + 2 * kv + 2 * scores, wide + 3 * inner);
  w.backward_extra = 3 * wide + 3 * inner + 2 * scores;
  w.forward_touched = 30.0 * static_cast<double>(wide) + 6.0 * static_cast<double>(inner);
  products(unit, static_cast<double>(tokens), w);
  attention(static_cast<double>(s.rows), static_cast<double>(s.length), static_cast<double>(c.hidden), w);
  return w;
}

// Head with its cross-entropy: logits come in chunks of 32 MiB in fp32 (nn/weighted.cpp), their gradients are made in
// forward.
shard::UnitWork head(const nn::Unit& unit, const Decoder& c, const BatchShape& s, std::int64_t element) {
  constexpr std::int64_t kChunk = std::int64_t{32} << 20;
  const auto rows = s.scored_positions();
  const auto wide = rows * c.hidden * element;
  const auto logits = rows * c.vocabulary;
  shard::UnitWork w;
  w.inputs = s.rows * s.length * c.hidden * element;
  w.graph = w.inputs + 3 * wide;
  if (trained(unit).any) {
    w.graph += rows <= c.hidden ? logits * element : c.vocabulary * c.hidden * element;
  }
  w.forward_extra = 3 * std::min(kChunk, logits * 4) + 2 * wide;
  w.backward_extra = w.inputs + 2 * wide;
  w.forward_touched = 6.0 * static_cast<double>(logits) * 4.0;
  w.forward_flop = 2.0 * static_cast<double>(logits) * static_cast<double>(c.hidden);  // of a tied weight too
  w.backward_flop = w.forward_flop * (trained(unit).any ? 2.0 : 1.0);
  return w;
}

// A block of an image tower over `tokens` positions: `score` bytes of attention scores, where they are made whole.
shard::UnitWork vision_block(const nn::Unit& unit, std::int64_t tokens, std::int64_t width, std::int64_t inner_width,
                             std::int64_t score, std::int64_t element) {
  const auto wide = tokens * width * element;
  const auto inner = tokens * inner_width * element;
  shard::UnitWork w;
  w.inputs = wide;
  w.graph = 9 * wide + 3 * inner + score;
  w.forward_extra = std::max(5 * wide + 2 * score, 2 * wide + 2 * inner);
  w.backward_extra = 4 * wide + 2 * inner + 2 * score;
  w.forward_touched =
      12.0 * static_cast<double>(wide) + 4.0 * static_cast<double>(inner) + 4.0 * static_cast<double>(score);
  products(unit, static_cast<double>(tokens), w);
  return w;
}

void add_clip(const nn::ModelLayout& layout, const models::ClipVisionConfig& c, const BatchShape& s,
              std::int64_t element, shard::Workload& work) {
  const auto length = c.patches() + 1;
  for (std::size_t u = 0; u < work.units.size(); ++u) {
    const auto& unit = layout.units()[u];
    if (!has(unit, "vision_tower.") || unit.idle) continue;
    work.units[u] = vision_block(unit, s.tower_images() * length, c.hidden_size, c.intermediate_size, 0, element);
    attention(static_cast<double>(s.tower_images()), static_cast<double>(length), static_cast<double>(c.hidden_size),
              work.units[u]);
  }
}

// The units of a FastViT lie in the order in which it runs: the stem, of each stage the downsampling, the positions and
// the blocks, the expansion at the end.
void add_fastvit(const nn::ModelLayout& layout, const models::FastVitConfig& c, const BatchShape& s,
                 std::int64_t element, shard::Workload& work) {
  std::size_t next = 0;
  const auto take = [&](std::int64_t pixels, std::int64_t width, std::int64_t inner, std::int64_t inputs) {
    while (!has(layout.units()[next], "vision_tower.")) ++next;
    auto& w = work.units[next];
    w = vision_block(layout.units()[next], s.tower_images() * pixels, width, inner, 0, element);
    w.inputs = s.tower_images() * inputs * element;
    ++next;
    return &w;
  };
  const auto half = (c.image_size + 1) / 2;
  auto side = (half + 1) / 2;
  auto before = c.stages.front().width;
  take(half * half, before, before, 3 * c.image_size * c.image_size);
  for (const auto& stage : c.stages) {
    if (stage.down_index >= 0) {
      const auto larger = side * side * before;
      side = (side + 1) / 2;
      take(side * side, stage.width, stage.width, larger);
    }
    const auto pixels = side * side;
    if (stage.position_index >= 0) take(pixels, stage.width, 0, pixels * stage.width);
    for (std::int64_t b = 0; b < stage.blocks; ++b) {
      auto* w = take(pixels, stage.width, stage.inner(), pixels * stage.width);
      if (stage.mixer == models::TokenMixer::attention)
        attention(static_cast<double>(s.tower_images()), static_cast<double>(pixels), static_cast<double>(stage.width),
                  *w);
    }
    before = stage.width;
  }
  take(side * side, c.width(), 0, side * side * before);
}

// Windows attend inside, global blocks over the whole grid; relative positions need the scores whole.
void add_sam_encoder(const nn::ModelLayout& layout, const models::SamConfig& c, const BatchShape& s,
                     std::int64_t element, shard::Workload& work) {
  const auto grid = c.grid() * c.grid();
  const auto inner = static_cast<std::int64_t>(c.mlp_ratio * static_cast<double>(c.embed_dim));
  constexpr std::string_view kBlock = ".image_encoder.blocks.";
  for (std::size_t u = 0; u < work.units.size(); ++u) {
    const auto& unit = layout.units()[u];
    if (!has(unit, ".visual_model.image_encoder") || unit.idle) continue;
    if (!has(unit, kBlock)) {
      const auto picture = s.images * 3 * c.image_size * c.image_size * element;
      work.units[u] = vision_block(unit, s.images * grid, c.embed_dim, c.embed_dim, picture, element);
      continue;
    }
    const auto number = std::stoll(unit.name.substr(unit.name.find(kBlock) + kBlock.size()));
    const bool global =
        std::find(c.global_attn_indexes.begin(), c.global_attn_indexes.end(), number) != c.global_attn_indexes.end();
    const auto reach = global ? grid : c.window_size * c.window_size;
    const auto score = s.images * c.num_heads * grid * reach * element;
    work.units[u] = vision_block(unit, s.images * grid, c.embed_dim, inner, score, element);
    attention(static_cast<double>(s.images) * static_cast<double>(grid) / static_cast<double>(reach),
              static_cast<double>(reach), static_cast<double>(c.embed_dim), work.units[u]);
  }
}

// Per prompt: the picture's features go twice through the two-way blocks, are enlarged fourfold at a quarter and an
// eighth of their channels, and the mask is enlarged to the input's and the original's size.
void add_mask_head(const nn::ModelLayout& layout, const models::LisaConfig& c, const BatchShape& s,
                   std::int64_t element, shard::Workload& work) {
  const auto grid = c.sam.grid() * c.sam.grid();
  const auto d = c.sam.prompt_embed_dim;
  for (std::size_t u = 0; u < work.units.size(); ++u) {
    const auto& unit = layout.units()[u];
    if (!has(unit, ".visual_model.mask_decoder")) continue;
    auto& w = work.units[u];
    const auto keys = s.masks * grid * d * element;
    const auto enlarged = s.masks * grid * 4 * (d / 4) * element + s.masks * grid * 16 * (d / 8) * element;
    const auto pictures = s.masks * (c.sam.image_size * c.sam.image_size + s.mask_pixels) * 4;
    w.inputs = s.images * grid * d * element;
    w.graph = w.inputs + (6 + 8 * c.sam.decoder_depth) * keys + 4 * enlarged + 4 * pictures;
    w.forward_extra = 4 * keys + 2 * enlarged + 2 * pictures;
    w.backward_extra = 4 * keys + 2 * enlarged + 3 * pictures;
    w.forward_touched = 40.0 * static_cast<double>(keys) + 10.0 * static_cast<double>(pictures);
    products(unit, static_cast<double>(s.masks * grid) / 2, w);
  }
}

void add_projector(const nn::ModelLayout& layout, const models::VisionTowerConfig& tower, std::int64_t hidden,
                   const BatchShape& s, std::int64_t element, shard::Workload& work) {
  const auto tokens = s.tower_images() * tower.tokens();
  for (std::size_t u = 0; u < work.units.size(); ++u) {
    const auto& unit = layout.units()[u];
    if (!has(unit, "mm_projector") && !has(unit, "multi_modal_projector")) continue;
    auto& w = work.units[u];
    w.inputs = tokens * tower.width() * element;
    w.graph = w.inputs + tokens * hidden * element;
    w.forward_extra = w.backward_extra = 2 * tokens * hidden * element;
    products(unit, static_cast<double>(tokens), w);
  }
}

// A vision tower and the projector behind it.
void add_tower(const nn::ModelLayout& layout, const models::VisionTowerConfig& tower, std::int64_t hidden,
               const BatchShape& s, std::int64_t element, shard::Workload& work) {
  if (tower.fastvit) {
    add_fastvit(layout, *tower.fastvit, s, element, work);
  } else {
    add_clip(layout, tower.clip, s, element, work);
  }
  add_projector(layout, tower, hidden, s, element, work);
}

std::int64_t pixels(std::int64_t side) {
  return 3 * side * side;
}

// What a micro-batch brings: `bytes`, and values of pictures, which wait in fp32 and are computed in the engine's type.
void add_input(shard::Workload& work, const BatchShape& shape, std::int64_t bytes, std::int64_t values,
               std::int64_t element) {
  work.batch += bytes + element * values;
  work.batches += shape.micro_batches * (bytes + 4 * values);
}

}  // namespace

BatchShape batch_shape(const data::Shards& shards, std::int64_t images, const data::InputSpec& spec,
                       std::int64_t micro_batches, std::int64_t read_ahead) {
  std::int64_t rows = 1, length = 1, masks = 0, pixels = 1, views = 1, scored = 1;
  for (std::int64_t i = 0; i < shards.size(); ++i) {
    const auto sizes = shards.sizes_of(i);
    rows = std::max(rows, sizes.conversations);
    // A picture's positions stand in the place of its token, and carry no label.
    const auto pictures = spec.tiles ? spec.positions_of(sizes) : spec.image_patches;
    const auto own = sizes.longest_tokens + pictures - (spec.tiles ? sizes.images : 1);
    length = std::max(length, std::min(own, spec.model_max_length));
    scored = std::max(scored, std::min(own, spec.model_max_length) - pictures);
    if (spec.tiles) views = std::max(views, spec.tiles_of(sizes));
    masks = std::max(masks, sizes.targets);
    pixels = std::max(pixels, sizes.size.height * sizes.size.width);
  }
  BatchShape out;
  out.images = images;
  out.rows = images * rows;
  out.views = images * views;
  out.length = length;
  out.scored = out.rows * scored;
  out.masks = images * masks;
  out.mask_pixels = pixels;
  out.micro_batches = micro_batches;
  out.read_ahead = read_ahead;
  return out;
}

shard::Workload language_workload(const nn::ModelLayout& layout, const models::LanguageConfig& config,
                                  const BatchShape& shape, std::int64_t element) {
  const auto decoder = decoder_of(config);
  const auto tokens = shape.rows * shape.length;
  shard::Workload work;
  work.units.resize(layout.units().size());
  for (std::size_t u = 0; u < work.units.size(); ++u) {
    const auto& unit = layout.units()[u];
    auto& w = work.units[u];
    if (unit.name == config.embedding_name()) {
      w.inputs = w.graph = tokens * 8;
      w.forward_extra = w.backward_extra = tokens * decoder.hidden * element;
      w.forward_touched = 2.0 * static_cast<double>(w.forward_extra);
    } else if (unit.name == "lm_head") {
      w = head(unit, decoder, shape, element);
    } else if (unit.name.starts_with("model.layers.") || unit.name.starts_with("transformer.blocks.")) {
      w = decoder_layer(unit, decoder, shape, element);
    }
  }
  add_input(work, shape, tokens * 17, 0, element);  // ids, labels, mask
  return work;
}

shard::Workload lisa_workload(const nn::ModelLayout& layout, const models::LisaConfig& config, const BatchShape& shape,
                              std::int64_t element) {
  auto work = language_workload(layout, config.language, shape, element);
  add_tower(layout, config.tower, config.language.hidden_size(), shape, element, work);
  add_sam_encoder(layout, config.sam, shape, element, work);
  add_mask_head(layout, config, shape, element, work);
  const auto picture = pixels(config.sam.image_size) + pixels(config.tower.image_size());
  add_input(work, shape, 4 * shape.masks * shape.mask_pixels, shape.images * picture, element);
  work.batches += shape.read_ahead;
  return work;
}

shard::Workload llava_workload(const nn::ModelLayout& layout, const models::LlavaConfig& config,
                               const BatchShape& shape, std::int64_t element) {
  auto work = language_workload(layout, config.language, shape, element);
  add_tower(layout, config.tower, config.language.hidden_size(), shape, element, work);
  add_input(work, shape, 0, shape.tower_images() * pixels(config.tower.image_size()), element);
  work.batches += shape.read_ahead;
  return work;
}

}  // namespace tessera::train
