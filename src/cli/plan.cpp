#include <cstdio>
#include <filesystem>

#include <fmt/ranges.h>

#include "cli/command.hpp"
#include "tessera/adapt/lora.hpp"
#include "tessera/adapt/trainable.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/lisa_folder.hpp"
#include "tessera/models/llava_folder.hpp"
#include "tessera/models/presets.hpp"
#include "tessera/shard/plan.hpp"
#include "tessera/train/model_setup.hpp"

namespace tessera::cli {

namespace {

struct PlanFlags {
  std::string model;
  std::int64_t ranks = 8;
  std::int64_t lora_r = 8;
  std::string lora_target_modules = "q_proj,v_proj";
  std::string train_scope = "lisa";
  std::string precision = "bf16";
  std::int64_t grad_accumulation_steps = 10;
  bool resident_frozen = false;
  bool units = false;
};

void bind(Options& o, PlanFlags& f) {
  o.add("model", &f.model,
        "model folder, or a built-in description: " + fmt::format("{}, {}", fmt::join(models::preset_names(), ", "),
                                                                  fmt::join(models::llava_preset_names(), ", ")),
        {.group = "Plan", .required = true});
  o.add("ranks", &f.ranks, "ranks of the job", {.group = "Plan", .min = 1});
  o.add("lora_r", &f.lora_r, "rank of LoRA; 0: none", {.group = "Plan", .min = 0});
  o.add("lora_target_modules", &f.lora_target_modules, "substrings of the layers that get LoRA", {.group = "Plan"});
  o.add("train_scope", &f.train_scope,
        "what trains: lisa, what LISA trains (of a LLaVA the projector and the adapters); full, everything (of a LLaVA "
        "but "
        "the vision tower)",
        {.group = "Plan", .choices = {"lisa", "full"}});
  o.add("precision", &f.precision, "arithmetic and storage of frozen weights",
        {.group = "Plan", .choices = {"fp32", "bf16", "fp16"}});
  o.add("grad_accumulation_steps", &f.grad_accumulation_steps, "micro-batches of a rank and step",
        {.group = "Plan", .min = 1});
  o.add("resident_frozen", &f.resident_frozen, "frozen weights stay whole on every rank", {.group = "Plan"});
  o.add("units", &f.units, "a line for each unit", {.group = "Plan"});
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

// Adds the model's units; true for a LLaVA, false for a LISA.
bool add_model(nn::ModelLayout& layout, const std::string& name) {
  if (!std::filesystem::is_directory(name)) {
    if (name.starts_with("lisa") || name.find("llava") == std::string::npos) {
      const models::LisaModel lisa(layout, models::lisa_preset(name));
      return false;
    }
    const models::LlavaModel llava(layout, models::llava_preset(name));
    return true;
  }
  const io::ModelFolder folder(name);
  const auto& config = folder.config().raw();
  const bool lisa = config.contains("train_mask_decoder") || config.contains("sam_config");
  if (!lisa && config.contains("text_config")) {
    const models::LlavaModel llava(layout, models::read_llava_folder({name, "", ""}).llava);
    return true;
  }
  const models::LisaModel model(layout, models::read_lisa_folder({name, "", "", ""}).lisa);
  return false;
}

// LLaVA trains its projector and the adapters, or all but the vision tower.
void mark(nn::ModelLayout& layout, adapt::TrainScope scope, bool llava) {
  if (!llava) {
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

}  // namespace

int run_plan(const std::vector<std::string>& args, Session&) {
  PlanFlags flags;
  Options options("tessera plan", "Sizes, memory and traffic of a run, from the shapes alone; no weights are needed.");
  bind(options, flags);
  if (!parse(options, args)) return 0;

  nn::ModelLayout layout;
  const bool llava = add_model(layout, flags.model);
  const auto base = layout.total_elements();
  if (flags.lora_r > 0)
    adapt::attach_lora(layout, train::lora_config(flags.lora_r, 16, 0.05, flags.lora_target_modules));
  mark(layout, adapt::train_scope_from_name(flags.train_scope), llava);

  shard::PlanRequest request;
  request.world = static_cast<int>(flags.ranks);
  request.engine.compute = train::compute_type(flags.precision);
  request.engine.policy.frozen = flags.resident_frozen ? shard::Placement::resident : shard::Placement::world;
  request.micro_batches = flags.grad_accumulation_steps;
  request.has_backward = train::has_backward;
  const auto plan = shard::make_plan(layout, request);

  std::printf("model                 %s\n", flags.model.c_str());
  std::printf("parameters            %s (%s without adapters)\n", grouped(layout.total_elements()).c_str(),
              grouped(base).c_str());
  std::printf("trained               %s (%.2f %%)\n", grouped(layout.trainable_elements()).c_str(),
              100.0 * static_cast<double>(layout.trainable_elements()) / static_cast<double>(layout.total_elements()));
  std::printf("ranks                 %lld, %s\n", static_cast<long long>(flags.ranks), flags.precision.c_str());
  std::printf("memory per rank\n");
  std::printf("  frozen weights      %s\n", gib(plan.memory.frozen).c_str());
  std::printf("  fp32 masters        %s\n", gib(plan.memory.master).c_str());
  std::printf("  gradients           %s\n", gib(plan.memory.gradients).c_str());
  std::printf("  optimiser states    %s\n", gib(plan.memory.optimizer).c_str());
  std::printf("  sum of the above    %s = 1/%lld of %s and padding\n", gib(plan.memory.sharded()).c_str(),
              static_cast<long long>(flags.ranks), gib(plan.whole_state).c_str());
  std::printf("  gathered at once    %s at most (of it %s held through a step)\n",
              gib(plan.memory.gathered_peak).c_str(), gib(plan.memory.held).c_str());
  std::printf("traffic per rank and step of %lld micro-batches\n",
              static_cast<long long>(flags.grad_accumulation_steps));
  std::printf("  gathered            %s\n", gib(plan.gathered_sent).c_str());
  std::printf("  reduced             %s\n", gib(plan.reduced_sent).c_str());
  if (flags.units) {
    std::printf("units (bytes gathered, trained elements, backward)\n");
    for (const auto& u : plan.units) {
      std::printf("  %-48s %14s %14s %s\n", u.name.c_str(), grouped(u.full_bytes).c_str(),
                  grouped(u.trained_elements).c_str(),
                  u.fused      ? "held"
                  : u.backward ? "yes"
                               : "no");
    }
  }
  return 0;
}

}  // namespace tessera::cli
