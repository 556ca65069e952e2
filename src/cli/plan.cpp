#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <variant>

#include <fmt/ranges.h>

#include "cli/command.hpp"
#include "tessera/adapt/lora.hpp"
#include "tessera/adapt/trainable.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/lisa_folder.hpp"
#include "tessera/models/llava_folder.hpp"
#include "tessera/models/presets.hpp"
#include "tessera/shard/optimizer.hpp"
#include "tessera/shard/planner.hpp"
#include "tessera/train/adapter_flags.hpp"
#include "tessera/train/engine_flags.hpp"
#include "tessera/train/model_setup.hpp"
#include "tessera/train/workload.hpp"

namespace tessera::cli {

namespace {

struct PlanFlags {
  std::string model;
  std::int64_t lora_r = 8;
  std::string lora_target_modules = "q_proj,v_proj";
  train::AdapterFlags adapter;
  std::string train_scope = "lisa";
  std::string precision = "bf16";
  std::string optim = "adamw";
  double momentum = 0;
  double ema_decay = 0;
  bool units = false;
  train::EngineFlags engine;
  // the machine, which need not be there
  std::int64_t ranks = 8;
  std::int64_t gpus_per_node = 0;
  double memory_gib = 80;
  double baseline_gib = 1;
  double tflops = 400;
  double memory_gbs = 2000;
  double link_gbs = 50;
  double node_link_gbs = 0;
  double host_link_gbs = 25;
  bool overlap = true;
  // the largest micro-batch
  std::int64_t batch_size = 2;
  std::int64_t conversations = 3;
  std::int64_t masks = -1;
  std::int64_t mask_pixels = 1 << 20;
  std::int64_t model_max_length = 512;
  std::int64_t grad_accumulation_steps = 10;
  bool async_save = true;
};

void bind_machine(Options& o, PlanFlags& f) {
  const auto rate = [](const char* unit) { return OptionInfo{.group = "Machine", .unit = unit, .min = 0}; };
  o.add("ranks", &f.ranks, "ranks of the job", {.group = "Machine", .min = 1});
  o.add("gpus_per_node", &f.gpus_per_node, "ranks of a node; 0: all are in one", {.group = "Machine", .min = 0});
  o.add("memory_gib", &f.memory_gib, "memory of a rank's device; a tenth of it is kept in reserve", rate("GiB"));
  o.add("baseline_gib", &f.baseline_gib, "of it in use before the model: libraries and communicators", rate("GiB"));
  o.add("tflops", &f.tflops, "matrix products that a rank attains", rate("TFLOP/s"));
  o.add("memory_gbs", &f.memory_gbs, "bandwidth of a rank's memory", rate("GB/s"));
  o.add("link_gbs", &f.link_gbs, "bandwidth of a rank to other nodes", rate("GB/s"));
  o.add("node_link_gbs", &f.node_link_gbs, "bandwidth of a rank inside its node; 0: that of --link_gbs", rate("GB/s"));
  o.add("host_link_gbs", &f.host_link_gbs, "bandwidth between device and host memory", rate("GB/s"));
  o.add("overlap", &f.overlap, "collectives run beside the arithmetic, as on GPUs", {.group = "Machine"});
}

void bind_batch(Options& o, PlanFlags& f) {
  const OptionInfo batch{.group = "Batch", .min = 1};
  o.add("batch_size", &f.batch_size, "images of a micro-batch", batch);
  o.add("conversations", &f.conversations, "of an image, at most", batch);
  o.add("masks", &f.masks, "of an image, at most; -1: one for each conversation", {.group = "Batch", .min = -1});
  o.add("mask_pixels", &f.mask_pixels, "of the largest picture", batch);
  o.add("model_max_length", &f.model_max_length, "positions of a row, the picture's included", batch);
  o.add("grad_accumulation_steps", &f.grad_accumulation_steps, "micro-batches of a rank and step", batch);
}

void bind(Options& o, PlanFlags& f) {
  o.add("model", &f.model,
        "model folder, or a built-in description: " + fmt::format("{}, {}", fmt::join(models::preset_names(), ", "),
                                                                  fmt::join(models::llava_preset_names(), ", ")),
        {.group = "Model", .required = true});
  o.add("lora_r", &f.lora_r, "rank of LoRA; 0: none", {.group = "Model", .min = 0});
  o.add("lora_target_modules", &f.lora_target_modules, "substrings of the layers that get LoRA", {.group = "Model"});
  bind(o, f.adapter, "Model");
  o.add("train_scope", &f.train_scope,
        "what trains: lisa, what LISA trains (of a LLaVA the projector and the adapters); lora, the adapters alone; "
        "full, everything (of a LLaVA but the vision tower)",
        {.group = "Model", .choices = {"lisa", "lora", "full"}});
  o.add("precision", &f.precision, "arithmetic and storage of frozen weights",
        {.group = "Model", .choices = {"fp32", "bf16", "fp16"}});
  o.add("optim", &f.optim, "optimiser, as `tessera train` names it", {.group = "Model"});
  o.add("momentum", &f.momentum, "of sgd; above 0 it keeps a state", {.group = "Model", .min = 0});
  o.add("ema_decay", &f.ema_decay, "above 0: an average of the trained weights is kept", {.group = "Model", .min = 0});
  o.add("units", &f.units, "a line for each unit", {.group = "Output"});
  train::bind(o, f.engine);
  o.add("async_save", &f.async_save, "checkpoints are written from a copy in host memory", {.group = "Engine"});
  bind_machine(o, f);
  bind_batch(o, f);
}

template <class... Args>
void say(fmt::format_string<Args...> text, Args&&... args) {
  const auto line = fmt::format(text, std::forward<Args>(args)...) + "\n";
  std::fputs(line.c_str(), stdout);
}

std::string gib(std::int64_t bytes) {
  return fmt::format("{:10.3f} GiB", static_cast<double>(bytes) / (1 << 30));
}

// 1234567 -> 1,234,567
std::string grouped(std::int64_t n) {
  std::string text = std::to_string(n);
  for (auto at = static_cast<std::int64_t>(text.size()) - 3; at > 0; at -= 3)
    text.insert(static_cast<std::size_t>(at), ",");
  return text;
}

// Config of a LLaVA that cannot become a LISA: transformers' form, or a tower that is no CLIP.
bool is_llava_alone(const nlohmann::json& config) {
  if (models::is_transformers_llava(config)) return true;
  const auto tower = config.find("mm_vision_tower");
  return tower != config.end() && tower->is_string() &&
         models::FastVitConfig::from_name(tower->get<std::string>()).has_value();
}

// A LISA or a LLaVA, whose units are added to the layout.
using ModelConfig = std::variant<models::LisaConfig, models::LlavaConfig>;
ModelConfig add_model(nn::ModelLayout& layout, const std::string& name) {
  auto lisa = [&](models::LisaConfig config) -> ModelConfig {
    const models::LisaModel model(layout, config);
    return config;
  };
  auto llava = [&](models::LlavaConfig config) -> ModelConfig {
    const models::LlavaModel model(layout, config);
    return config;
  };
  if (!std::filesystem::is_directory(name)) {
    const bool of_llava = name.find("llava") != std::string::npos || name.find("fastvlm") != std::string::npos;
    if (name.starts_with("lisa") || !of_llava) return lisa(models::lisa_preset(name));
    return llava(models::llava_preset(name));
  }
  const io::ModelFolder folder(name);
  const auto& config = folder.config().raw();
  const bool finished = config.contains("train_mask_decoder") || config.contains("sam_config");
  if (!finished && is_llava_alone(config)) return llava(models::read_llava_folder({name, "", ""}).llava);
  return lisa(models::read_lisa_folder({name, "", "", ""}).lisa);
}

// LLaVA trains its projector and the adapters, or all but the vision tower.
void mark(nn::ModelLayout& layout, adapt::TrainScope scope, bool llava) {
  if (!llava || scope == adapt::TrainScope::lora) {
    adapt::mark_trainable(layout, scope);
    return;
  }
  if (scope == adapt::TrainScope::lisa) {
    adapt::mark_trainable(layout, {"mm_projector"});
    return;
  }
  for (const nn::Param& param : layout.params())
    param->trainable = !param->buffer && param->name.find(".vision_tower.") == std::string::npos;
}

shard::MachineRates rates_of(const PlanFlags& f) {
  shard::MachineRates rates;
  rates.tflops = f.tflops;
  rates.memory_gbs = f.memory_gbs;
  rates.link_gbs = f.link_gbs;
  rates.node_link_gbs = f.node_link_gbs > 0 ? f.node_link_gbs : f.link_gbs;
  rates.host_link_gbs = f.host_link_gbs;
  rates.overlap = f.overlap;
  return rates;
}

train::BatchShape shape_of(const PlanFlags& f, std::int64_t image_tokens) {
  train::BatchShape shape;
  shape.images = f.batch_size;
  shape.rows = f.batch_size * f.conversations;
  shape.length = f.model_max_length;
  shape.scored = shape.rows * std::max<std::int64_t>(1, shape.length - image_tokens);
  shape.masks = f.batch_size * (f.masks < 0 ? f.conversations : f.masks);
  shape.mask_pixels = f.mask_pixels;
  shape.micro_batches = f.grad_accumulation_steps;
  return shape;
}

shard::Workload work_of(const PlanFlags& f, const nn::ModelLayout& layout, const ModelConfig& model) {
  const std::int64_t element = f.precision == "fp32" ? 4 : 2;
  if (const auto* lisa = std::get_if<models::LisaConfig>(&model)) {
    return train::lisa_workload(layout, *lisa, shape_of(f, lisa->tower.tokens()), element);
  }
  const auto& llava = std::get<models::LlavaConfig>(model);
  return train::llava_workload(layout, llava, shape_of(f, llava.tower.tokens()), element);
}

shard::PlannerRequest request_of(const PlanFlags& f, const nn::ModelLayout& layout, const ModelConfig& model) {
  if (f.gpus_per_node > 0 && f.ranks % f.gpus_per_node != 0) {
    throw RequestError("--gpus_per_node {} does not divide the {} of --ranks", f.gpus_per_node, f.ranks);
  }
  shard::PlannerRequest request;
  request.world = static_cast<int>(f.ranks);
  request.nodes = f.gpus_per_node > 0 ? static_cast<int>(f.ranks / f.gpus_per_node) : 1;
  request.engine.compute = train::compute_type(f.precision);
  // fp32 is the CPUs' arithmetic here, where host memory is no other memory.
  const bool cpu = request.engine.compute == shard::ComputeType::f32;
  request.engine.device = c10::Device(cpu ? c10::DeviceType::CPU : c10::DeviceType::CUDA, 0);
  request.engine.layer_major = static_cast<int>(f.engine.layer_major);
  request.engine.reproducible = f.engine.reproducible == "auto" ? cpu : f.engine.reproducible == "true";
  shard::OptimizerConfig optimizer;
  optimizer.kind = shard::optimizer_kind(f.optim);
  optimizer.momentum = f.momentum;
  request.engine.moments = optimizer.moments();
  request.engine.moments_8bit = optimizer.moments_8bit();
  request.engine.average = f.ema_decay > 0;
  train::check_layer_major(f.engine, f.grad_accumulation_steps);
  request.choices = train::choices(f.engine, layout);
  request.engine.quantization = train::quantization(f.engine.quantize, layout, nullptr);
  request.micro_batches = f.grad_accumulation_steps;
  request.has_backward = train::has_backward(layout);
  request.work = work_of(f, layout, model);
  request.snapshot = f.async_save;
  request.rates = rates_of(f);
  constexpr double kGiB = 1 << 30;
  request.baseline = static_cast<std::int64_t>(f.baseline_gib * kGiB);
  request.budget = f.engine.budget_bytes().value_or(static_cast<std::int64_t>(0.9 * f.memory_gib * kGiB));
  return request;
}

void print_memory(const shard::RunPlan& p, std::int64_t ranks) {
  const auto& m = p.memory;
  const auto& states = p.plan.memory;
  say("memory per rank");
  say("  frozen weights      {}", gib(m.frozen));
  say("  fp32 masters        {}", gib(m.master));
  say("  gradients           {}", gib(m.gradients));
  say("  optimiser states    {}", gib(m.optimizer));
  if (m.average > 0) say("  average of weights  {}", gib(m.average));
  say("  sum of the above    {}", gib(m.frozen + m.master + m.gradients + m.optimizer + m.average));
  say("  whole               {}, 1/{} of it {}", gib(p.plan.whole_state), ranks, gib(p.plan.whole_state / ranks));
  say("  gathered at once    {} at most (of it {} held through a step)", gib(m.gathered), gib(states.held));
  say("  activations         {} at most", gib(m.activations));
  say("  batches             {}", gib(m.batches));
  if (m.snapshot > 0) say("  checkpoint's copy   {}", gib(m.snapshot));
  say("  process             {}", gib(m.baseline));
  say("  peak                {}", gib(m.total()));
  if (m.host > 0) say("  in host memory      {} besides", gib(m.host));
}

void print_traffic_and_time(const shard::RunPlan& p, const PlanFlags& f) {
  const auto& t = p.time;
  say("traffic per rank and step of {} micro-batches", f.grad_accumulation_steps);
  say("  gathered            {}", gib(p.plan.gathered_sent + p.plan.node_sent));
  if (p.plan.node_sent > 0) say("    of it in the node {}", gib(p.plan.node_sent));
  say("  reduced             {}", gib(p.plan.reduced_sent));
  say("time per step at {:g} TFLOP/s, {:g} GB/s of memory, {:g} GB/s between and {:g} GB/s in nodes", f.tflops,
      f.memory_gbs, f.link_gbs, f.node_link_gbs > 0 ? f.node_link_gbs : f.link_gbs);
  say("  matrix products     {:10.3f} s", t.products);
  say("  recomputed          {:10.3f} s", t.recompute);
  say("  other operations    {:10.3f} s", t.other);
  say("  gathering           {:10.3f} s ({:.3f} s inside nodes)", t.gather + t.node_gather, t.node_gather);
  say("  reducing            {:10.3f} s", t.reduce);
  if (t.offload > 0) say("  to and from host    {:10.3f} s", t.offload);
  say("  optimiser           {:10.3f} s", t.optimizer);
  say("  step                {:10.3f} s, collectives {} the arithmetic", t.step, f.overlap ? "beside" : "after");
}

void print_units(const shard::RunPlan& p) {
  say("units (bytes gathered, trained elements, backward)");
  for (const auto& u : p.plan.units) {
    const char* how = u.fused ? "held" : !u.backward ? "no" : u.policy.recompute ? "recomputed" : "yes";
    say("  {:<48} {:>14} {:>14} {}", u.name, grouped(u.full_bytes), grouped(u.trained_elements), how);
  }
}

}  // namespace

int run_plan(const std::vector<std::string>& args, Session&) {
  PlanFlags flags;
  Options options(
      "tessera plan",
      "Memory, traffic and time of a run, and how the engine would be configured, from the shapes alone; no "
      "weights are needed.");
  bind(options, flags);
  if (!parse(options, args)) return 0;
  train::validate(flags.engine);

  nn::ModelLayout layout;
  const auto config = add_model(layout, flags.model);
  const auto base = layout.total_elements();
  adapt::Lora lora;
  if (flags.lora_r > 0) {
    auto settings = train::lora_config(flags.lora_r, 16, 0.05, flags.lora_target_modules);
    constexpr std::int64_t kAnySteps = 1'000;  // a plan has no end
    apply(flags.adapter, settings, kAnySteps);
    lora = adapt::attach_lora(layout, settings);
  } else {
    check_no_adapter(flags.adapter);
  }
  if (const auto prefix = train::prefix_of(flags.adapter)) adapt::attach_prefix(layout, *prefix);
  mark(layout, adapt::train_scope_from_name(flags.train_scope), std::holds_alternative<models::LlavaConfig>(config));
  for (const nn::Param& param : lora.saved) param->trainable = !param->buffer;
  train::mark_biases(flags.adapter, layout, lora);

  auto request = request_of(flags, layout, config);
  if (lora.config.adalora) request.engine.importance = lora.unit;
  const auto plan = shard::Planner(layout, std::move(request)).choose();
  say("model                 {}", flags.model);
  say("parameters            {} ({} without adapters)", grouped(layout.total_elements()), grouped(base));
  say("trained               {} ({:.2f} %)", grouped(layout.trainable_elements()),
      100.0 * static_cast<double>(layout.trainable_elements()) / static_cast<double>(layout.total_elements()));
  say("ranks                 {}, {}", flags.ranks, flags.precision);
  const auto& quantized = plan.engine.quantization;
  if (quantized.kind != QuantKind::none) say("quantised             {}", train::describe(quantized));
  for (const auto& line : plan.why) say("plan                  {}", line);
  print_memory(plan, flags.ranks);
  print_traffic_and_time(plan, flags);
  if (flags.units) print_units(plan);
  return 0;
}

}  // namespace tessera::cli
