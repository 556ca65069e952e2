#include "tessera/train/model_setup.hpp"

#include <algorithm>
#include <set>

#include "dora_start.hpp"
#include "tessera/adapt/base_start.hpp"
#include "tessera/adapt/tied_head.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/progress.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/llava_folder.hpp"
#include "tessera/models/local_weights.hpp"
#include "tessera/models/vocabulary.hpp"
#include "tessera/train/adapter_start.hpp"
#include "tessera/train/machine.hpp"

namespace tessera::train {

namespace {

// Behind the base model's name: "model." or, on MPT, "transformer.".
constexpr std::string_view kClip = ".vision_tower.";
constexpr std::string_view kSamEncoder = ".visual_model.image_encoder.";
constexpr std::string_view kProjector = ".mm_projector.";

bool contains(const std::string& name, std::string_view part) {
  return name.find(part) != std::string::npos;
}

// New ones, or those that the training starts from.
void attach_adapters(LoadedModel& m, const TrainConfig& config, const AdapterStart& start) {
  if (const auto lora = m.recipe->adapters(*m.layout)) {
    m.lora = start.lora ? adapt::attach_lora(*m.layout, *start.lora,
                                             started_config(*start.lora, config, *lora, *m.layout), start.lora->path)
                        : adapt::attach_lora(*m.layout, *lora);
  }
  if (const auto prefix = prefix_of(config.adapter)) m.prefix = adapt::attach_prefix(*m.layout, *prefix);
  if (start.prefix) adapt::check_fits(*start.prefix, m.prefix.value(), start.prefix->path);
}

// PEFT parts a head from the embedding that it is; here the two are one weight while they train.
void check_tied_head(const LoadedModel& m, const TrainConfig& config, const AdapterStart& start) {
  if (!m.lora || m.layout->find("lm_head.weight") != nullptr) return;
  if (start.lora && adapt::parts_head({start.lora->path}))
    throw RequestError(
        "--adapter {}: it changes the embedding or the head, which are one in {}; train on from the model that "
        "`tessera merge` makes of it",
        start.lora->path.string(), config.version);
  const auto& layers = m.lora->layers;
  const auto found = std::find_if(layers.begin(), layers.end(), [](const adapt::LoraLayer& layer) {
    return layer.target->kind == nn::LayerKind::embedding && adapt::is_vocabulary(layer.target->name);
  });
  if (found != layers.end() && config.export_merged)
    throw RequestError(
        "LoRA on {} would change the head of {} too once it is merged, for they are one: pass --export_merged false, "
        "and let `tessera merge` part them",
        found->target->name, config.version);
}

void settle_what_trains(LoadedModel& m, const TrainConfig& config, const AdapterStart& start, const Log& log) {
  attach_adapters(m, config, start);
  check_tied_head(m, config, start);
  m.recipe->mark_trained(*m.layout);
  if (m.lora) {
    for (const auto& p : m.lora->saved) p->trainable = !p->buffer;
    const auto& biases = config.adapter.lora_bias;
    if (mark_biases(config.adapter, *m.layout, *m.lora) == 0 && (biases == "all" || biases == "lora_only"))
      log.warn("--lora_bias {}: there are no such biases, the language model's layers have none", biases);
  }
  for (const auto& p : m.layout->params()) {
    if (p->trainable && contains(p->name, kClip)) m.vision_tower_trained = true;
  }
  if (!start.lora || !start.lora->replaced) return;
  for (const auto& tensor : start.lora->replaced->tensors()) {
    const auto param = m.layout->find(tensor.name);
    if (param && !param->trainable) m.carried.insert(param.get());
  }
}

shard::LoadPolicy policy_of(const Recipe& recipe, const nn::ModelLayout& layout, const TrainConfig& config,
                            std::uint64_t seed, int rank) {
  shard::LoadPolicy policy;
  policy.seed = seed;
  policy.progress = progress_style(rank);
  const bool any = config.random_init;
  policy.may_initialize = [&recipe, &layout, any](const nn::ParamState& p) {
    return any || layout.unit(p.unit).fused || recipe.may_be_new(p);  // adapters begin here
  };
  return policy;
}

void report(const shard::LoadReport& r, const nn::ModelLayout& layout, int rank, const Log& log) {
  if (!r.initialized.empty()) {
    log.info("drawn, since no file holds them: {} tensors ({}{})", r.initialized.size(), r.initialized.front(),
             r.initialized.size() > 1 ? ", …" : "");
  }
  const auto text = models::unexpected_text(r.unused, layout);
  if (!text.empty() && rank == 0) log.warn("{}", text);
}

// A base's vocabulary grows to the model's: LISA draws the rows of its added tokens, LLaVA takes the mean of the
// others.
io::SourcePtr with_added_rows(const io::SourcePtr& files, const nn::ModelLayout& layout, const TrainConfig& config,
                              std::uint64_t seed, const Log& log) {
  const auto fill = models::new_rows_from_name(config.new_token_init);
  const auto growth = models::growth_to(layout, fill, seed);
  for (const auto& name : growth.tensors) {
    const auto* old = files->find(name);
    if (old == nullptr || old->shape.size() != 2 || old->shape[0] >= growth.rows) continue;
    log.info("{}: {} rows of added tokens, {}", name, growth.rows - old->shape[0],
             fill == models::NewRows::mean ? "each the mean of the others" : "drawn");
  }
  return models::grow_vocabulary(files, growth);
}

}  // namespace

shard::ComputeType compute_type(const std::string& precision) {
  if (precision == "bf16") return shard::ComputeType::bf16;
  if (precision == "fp16") return shard::ComputeType::f16;
  if (precision == "fp32") return shard::ComputeType::f32;
  throw RequestError("--precision '{}' is unknown; choose fp32, bf16 or fp16", precision);
}

shard::OptimizerConfig optimizer_of(const TrainConfig& config) {
  shard::OptimizerConfig out;
  out.beta1 = config.beta1;
  out.beta2 = config.beta2;
  out.eps = config.adam_eps;
  out.kind = shard::optimizer_kind(config.optim);
  out.momentum = config.momentum;
  out.max_grad_value = config.optimization.max_grad_value;
  out.ema_decay = config.optimization.ema_decay;
  return out;
}

std::function<bool(const nn::Unit&)> has_backward(const nn::ModelLayout& layout) {
  const auto trains = [](const nn::Unit& unit) {
    return unit.adapted ||
           std::any_of(unit.params.begin(), unit.params.end(), [](const nn::Param& p) { return p->trainable; });
  };
  const auto all_in = [](const nn::Unit& unit, std::string_view part) {
    return std::all_of(unit.params.begin(), unit.params.end(),
                       [&](const nn::Param& p) { return contains(p->name, part); });
  };
  std::set<std::string> without;
  bool clip = false, sam = false;  // something before the unit in its tower has a gradient
  for (const nn::Unit& unit : layout.units()) {
    if (all_in(unit, kClip)) {
      clip = clip || trains(unit);
      if (!clip) without.insert(unit.name);
    } else if (all_in(unit, kSamEncoder)) {
      sam = sam || trains(unit);
      if (!sam) without.insert(unit.name);
    } else if (all_in(unit, kProjector) && !clip && !trains(unit)) {
      without.insert(unit.name);
    }
  }
  return [without = std::move(without)](const nn::Unit& unit) { return !without.contains(unit.name); };
}

namespace {

BatchShape one_picture(const data::InputSpec& spec) {
  BatchShape shape;
  shape.images = shape.rows = shape.masks = 1;
  shape.mask_pixels = spec.sam_size * spec.sam_size;
  return shape;
}

// Training alone has a backward.
std::function<bool(const nn::Unit&)> backward_of(const nn::ModelLayout& layout, bool for_training) {
  if (for_training) return has_backward(layout);
  return [](const nn::Unit&) { return false; };
}

struct Machine {
  std::optional<MemoryLimits> memory;
  shard::MachineRates rates;
};

shard::RunPlan plan_engine(const LoadedModel& m, const TrainConfig& config, const comm::Fabric& fabric,
                           c10::Device device, const Machine& machine, bool for_training, const BatchShape& shape,
                           const io::TensorSource& weights) {
  shard::PlannerRequest request;
  request.world = fabric.size();
  request.nodes = fabric.nodes();
  request.engine.compute = compute_type(config.precision);
  request.engine.device = device;
  apply(config.engine, request.engine);
  request.engine.quantization = quantization(config.engine.quantize, *m.layout, &weights);
  request.engine.moments = optimizer_of(config).moments();
  request.engine.moments_8bit = optimizer_of(config).moments_8bit();
  request.engine.average = for_training && config.optimization.ema_decay > 0;
  if (for_training && m.lora && m.lora->config.adalora) request.engine.importance = m.lora->unit;
  if (for_training) check_layer_major(config.engine, shape.micro_batches);
  request.choices = choices(config.engine, *m.layout);
  request.micro_batches = shape.micro_batches;
  request.has_backward = backward_of(*m.layout, for_training);
  const std::int64_t element = request.engine.compute == shard::ComputeType::f32 ? 4 : 2;
  request.work = m.recipe->workload(*m.layout, shape, element);
  request.rates = machine.rates;
  request.snapshot = for_training && config.async_save;
  if (machine.memory) {
    request.baseline = machine.memory->baseline;
    request.budget = machine.memory->budget;
  }
  if (const auto budget = config.engine.budget_bytes()) request.budget = budget;
  return shard::Planner(*m.layout, std::move(request)).choose();
}

void report_quantized(const shard::Quantization& q, const TrainConfig& config, const Log& log) {
  if (q.kind == QuantKind::none) return;
  log.info("quantised: {}, moved as they are and expanded where they are used", describe(q));
  if (config.export_merged) log.info("a merged export will hold the values that the bits stand for");
}

}  // namespace

LoadedModel load_model(const TrainConfig& config, const comm::Fabric& fabric, c10::Device device, std::uint64_t seed,
                       bool for_training, const Log& log, const std::function<BatchShape(LoadedModel&)>& micro_batch) {
  Machine machine;
  machine.rates = measure_rates(fabric, device, compute_type(config.precision));
  machine.memory = measure_memory(fabric, device);  // after what the probe has drawn in
  std::optional<LoadedModel> loaded;
  AdapterStart start;
  io::SourcePtr weights;
  std::shared_ptr<adapt::StartedSource> begun;  // of adapters that begin in the base
  comm::on_every_rank(*fabric.control, [&] {
    auto recipe = make_recipe(config);
    auto tokenizer = recipe->load_tokenizer();
    loaded.emplace(LoadedModel{.recipe = std::move(recipe),
                               .tokenizer = std::move(tokenizer),
                               .layout = std::make_unique<nn::ModelLayout>(),
                               .lora = {},
                               .prefix = {},
                               .carried = {},
                               .start = {},
                               .engine = nullptr,
                               .plan = {}});
    auto& own = *loaded->recipe;
    own.build(*loaded->layout);
    loaded->vision_tower_on_disk = !own.tower_folder().empty() && io::find_weights(own.tower_folder()) &&
                                   !models::has_tower_inside(own.exported_config());
    if (for_training) {
      start = open_adapters(config, [&own](const std::string& name) { return own.layout_name(name); });
      settle_what_trains(*loaded, config, start, log);
    }
    weights = with_added_rows(start.over_base(own.open_weights()), *loaded->layout, config, seed, log);
    loaded->plan = plan_engine(*loaded, config, fabric, device, machine, for_training,
                               micro_batch ? micro_batch(*loaded) : one_picture(own.input_spec(0)), *weights);
    report_quantized(loaded->plan.engine.quantization, config, log);
    for (const auto& line : loaded->plan.why) log.info("plan: {}", line);
    loaded->engine = std::make_unique<shard::Engine>(*loaded->layout, fabric, loaded->plan.engine);
    if (loaded->lora && loaded->lora->config.starts_in_base()) {
      begun = adapt::started_source(weights, adapt::base_start(*loaded->lora, seed), true);
      weights = loaded->start = begun;
    }
    weights = start.over(weights);
  });
  if (begun) begun->share(*fabric.control);
  comm::on_every_rank(*fabric.control, [&] {
    const auto policy = policy_of(*loaded->recipe, *loaded->layout, config, seed, fabric.rank());
    report(loaded->engine->load(*weights, policy), *loaded->layout, fabric.rank(), log);
  });
  loaded->engine->settle();
  if (loaded->lora && !start.lora) start_magnitudes(*loaded->engine, *loaded->lora);
  if (for_training) loaded->frozen_digest = loaded->engine->frozen_digest();
  return std::move(*loaded);
}

}  // namespace tessera::train
