#include "tessera/data/frozen_towers.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <optional>

#include "data/prefetch.hpp"
#include "data/shard_names.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/core/error.hpp"
#include "tessera/models/lisa_folder.hpp"
#include "tessera/models/llava_folder.hpp"
#include "tessera/shard/engine.hpp"

namespace tessera::data {
namespace {

constexpr std::int64_t kBatch = 4;  ///< images that a tower sees at once
constexpr std::int64_t kAheadBytes = std::int64_t{256} << 20;

at::ScalarType scalar_of(shard::ComputeType type) {
  return type == shard::ComputeType::bf16 ? at::kBFloat16 : type == shard::ComputeType::f16 ? at::kHalf : at::kFloat;
}

/// A batch of images as the towers take them; undefined where there is no such tower.
struct Pixels {
  at::Tensor clip, sam;
};

/// The towers, their layout and their weights, before any of these is read.
struct Model {
  InputSpec spec;
  nn::ModelLayout layout;
  std::unique_ptr<models::VisionTower> clip;
  std::optional<models::SamImageEncoder> sam;
  io::SourcePtr weights;
  std::vector<TowerFeatures> features;

  void add_clip(const models::VisionTowerConfig& config, const std::string& base) {
    features.push_back(describe_clip(config, spec));
    clip = models::make_vision_tower(layout, config, base + ".vision_tower.vision_tower");
  }
  void add_sam(const models::SamConfig& config, const std::string& base) {
    features.push_back(describe_sam(config));
    sam.emplace(layout, config, base + ".visual_model.image_encoder");
  }
  /// What belongs to the towers alone.
  void take_weights(const io::SourcePtr& all) {
    weights = std::make_shared<io::RenamedSource>(all, [this](std::string_view name) {
      return layout.find(name) ? std::optional<std::string>(name) : std::nullopt;
    });
  }
};

void build_lisa(const TowerRequest& request, Model& model) {
  const auto folder =
      models::read_lisa_folder({request.model, request.vision_tower, request.vision_pretrained, request.hub_dir});
  model.spec.sam_size = folder.lisa.sam.image_size;
  describe_tower(folder.tower, folder.lisa.tower, model.spec);
  const auto base = folder.lisa.language.base();
  for (const auto& tower : request.towers) {
    if (tower == "sam") {
      model.add_sam(folder.lisa.sam, base);
    } else {
      model.add_clip(folder.lisa.tower, base);
    }
  }
  model.take_weights(models::open_lisa_weights(folder));
}

void build_llava(const TowerRequest& request, Model& model) {
  if (request.towers != std::vector<std::string>{"clip"}) {
    throw RequestError("--store_features: a LLaVA has the tower 'clip' and no other");
  }
  const auto folder = models::read_llava_folder(
      {request.model, request.vision_tower, request.hub_dir, request.settings, models::trainer_defaults()});
  if (folder.llava.tower.fastvit || folder.tower.empty()) {
    throw RequestError("--store_features: '{}' has no CLIP folder beside it, from which --recipe llava trains",
                       request.model);
  }
  // In transformers' form the tower is part of the model, and its processor lies beside it.
  const bool whole = models::is_transformers_llava(folder.config);
  describe_tower(whole ? folder.folder : folder.tower, folder.llava.tower, model.spec);
  model.spec.aspect = image::aspect_from_name(request.aspect);
  const auto base = folder.llava.language.base();
  model.add_clip(folder.llava.tower, base);
  model.take_weights(std::make_shared<io::RenamedSource>(
      models::open_llava_weights(folder),
      [own = folder.llava](std::string_view name) { return models::llava_layout_name(std::string(name), own); }));
}

void check_names(const TowerRequest& request) {
  const auto& names = request.towers;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] != "clip" && names[i] != "sam")
      throw RequestError("--store_features: no tower is called '{}'; there are clip and sam", names[i]);
    if (std::find(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(i), names[i]) !=
        names.begin() + static_cast<std::ptrdiff_t>(i))
      throw RequestError("--store_features: '{}' is there twice", names[i]);
  }
}

}  // namespace

struct FrozenTowers::Impl {
  Impl(const TowerRequest& request, const TowerMachine& on) : machine(on), lisa(request.recipe == "lisa") {
    auto& control = *machine.fabric.control;
    comm::on_every_rank(control, [&] {
      check_names(request);
      lisa ? build_lisa(request, model) : build_llava(request, model);
      shard::EngineConfig config;
      config.device = machine.device;
      config.compute = machine.compute;
      if (machine.resident) config.policy.frozen = shard::Placement::resident;
      engine.emplace(model.layout, machine.fabric, config);
      engine->load(*model.weights, {});
    });
    engine->settle();
    for (auto& one : model.features) {
      const auto units = tower_units(model.layout, one.name);
      one.tower = tower_digest(model.layout, one.name, units, *model.weights, control);
    }
  }

  /// Images [first, first + count) of a shard; count may be 0.
  Pixels pixels(const ShardData* data, std::int64_t first, std::int64_t count) const {
    const auto room = [&](bool there, image::Size size) {
      return there ? at::empty({count, 3, size.height, size.width}, at::kFloat) : at::Tensor();
    };
    const auto side = model.spec.sam_size;
    Pixels out{room(model.clip != nullptr, model.spec.clip.crop), room(model.sam.has_value(), {side, side})};
    for (std::int64_t i = 0; i < count; ++i) {
      const auto image = decode(*data, static_cast<std::size_t>(first + i));
      const auto place = [&](at::Tensor& all) {
        const auto floats = static_cast<std::size_t>(all.numel() / count);
        return std::span(all.mutable_data_ptr<float>() + static_cast<std::size_t>(i) * floats, floats);
      };
      if (out.clip.defined()) image::clip_pixels(image, model.spec.clip, model.spec.aspect, place(out.clip));
      if (out.sam.defined()) image::sam_pixels(image, side, place(out.sam));
    }
    return out;
  }

  image::Image decode(const ShardData& data, std::size_t row) const {
    const auto& bytes = data.images.bytes;
    const auto* begin = bytes.values.data() + bytes.offsets[row];
    const std::span encoded(begin, static_cast<std::size_t>(bytes.offsets[row + 1] - bytes.offsets[row]));
    return image::decode(encoded, "image", {.exif_orientation = lisa});
  }

  /// One pass; the features in the order of model.features, in bf16 on the host.
  std::vector<at::Tensor> see(const Pixels& pixels) {
    engine->begin_pass(shard::Pass::eval);
    std::vector<at::Tensor> out;
    for (const auto& one : model.features) {
      const at::Tensor& in = one.name == "sam" ? pixels.sam : pixels.clip;
      const at::Tensor moved = in.to(machine.device, scalar_of(machine.compute));
      const at::Tensor seen =
          one.name == "sam" ? model.sam->forward(moved, *engine, {}) : model.clip->features(moved, *engine, {});
      out.push_back(seen.to(c10::Device(c10::DeviceType::CPU), at::kBFloat16).contiguous());
    }
    engine->end_pass();
    return out;
  }

  void store(const std::vector<at::Tensor>& seen, ShardData& data) const {
    for (std::size_t t = 0; t < seen.size(); ++t) {
      auto& table = data.features[t];
      const auto row = static_cast<std::size_t>(table.what.numel());
      const auto* values = reinterpret_cast<const std::uint16_t*>(seen[t].const_data_ptr<at::BFloat16>());
      for (std::int64_t i = 0; i < seen[t].size(0); ++i, values += row) {
        table.values.insert(table.values.end(), values, values + row);
        table.digest.push_back(checksum_of(values, row * sizeof(std::uint16_t)));
      }
    }
  }

  TowerMachine machine;
  bool lisa;
  Model model;
  std::optional<shard::Engine> engine;
};

FrozenTowers::FrozenTowers(const TowerRequest& request, const TowerMachine& machine)
    : impl_(std::make_unique<Impl>(request, machine)) {}
FrozenTowers::~FrozenTowers() = default;

const std::vector<TowerFeatures>& FrozenTowers::features() const noexcept {
  return impl_->model.features;
}

std::int64_t FrozenTowers::bytes_per_image() const noexcept {
  std::int64_t bytes = 0;
  for (const auto& one : features()) bytes += one.numel() * static_cast<std::int64_t>(sizeof(std::uint16_t));
  return bytes;
}

void FrozenTowers::run(ShardData* data) {
  auto& p = *impl_;
  const at::NoGradGuard no_grad;
  const auto images = data == nullptr ? std::int64_t{0} : static_cast<std::int64_t>(data->images.height.size());
  const auto own = (images + kBatch - 1) / kBatch;
  if (data != nullptr) {
    data->features.clear();
    for (const auto& one : features()) data->features.push_back({one, {}, {}});
    for (auto& table : data->features) table.values.reserve(static_cast<std::size_t>(images * table.what.numel()));
  }
  auto most = own;
  auto& control = *p.machine.fabric.control;
  control.all_reduce({&most, 1, comm::DType::i64}, comm::ReduceOp::max);
  const auto count = [&](std::int64_t i) { return std::clamp<std::int64_t>(images - i * kBatch, 0, kBatch); };
  const auto bytes = 3 * 4 * kBatch * (p.model.spec.sam_size * p.model.spec.sam_size);
  Prefetch<Pixels> ahead(
      {.workers = p.machine.workers, .bytes = kAheadBytes, .end = own},
      [&](std::int64_t i) { return p.pixels(data, i * kBatch, count(i)); }, [&](std::int64_t) { return bytes; });
  std::exception_ptr failed;  // kept until all ranks are out of the loop
  p.engine->begin_step();
  for (std::int64_t i = 0; i < most; ++i) {
    auto pixels = p.pixels(nullptr, 0, 0);
    try {
      if (i < own && !failed) pixels = std::move(ahead.take(1).front());
    } catch (...) {
      failed = std::current_exception();
    }
    const auto seen = p.see(pixels);
    if (i < own && !failed) p.store(seen, *data);
  }
  p.engine->end_step();
  comm::agree(control, failed);
}

}  // namespace tessera::data
