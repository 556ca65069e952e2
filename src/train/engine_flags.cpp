#include "tessera/train/engine_flags.hpp"

#include <ATen/Context.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

#include "tessera/core/error.hpp"
#include "tessera/core/split.hpp"
#include "tessera/shard/planner.hpp"

namespace tessera::train {

namespace {

std::optional<double> number(const std::string& text) {
  double value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<bool> yes_or_no(const std::string& word) {
  if (word == "auto") return std::nullopt;
  return word == "true";
}

std::vector<bool> named_units(const std::string& list, const nn::ModelLayout& layout) {
  const auto& units = layout.units();
  std::vector<bool> out(units.size(), false);
  for (const auto& part : split_names(list, ",")) {
    bool found = false;
    for (std::size_t u = 0; u < units.size(); ++u) {
      if (units[u].name.find(part) == std::string::npos) continue;
      found = out[u] = true;
    }
    if (!found) {
      throw RequestError(
          "--recompute '{}' is in the name of no unit (the first are {}, {}; `tessera plan --units` lists them), and "
          "is "
          "none of auto, all, none or a fraction",
          part, units.front().name, units.size() > 1 ? units[1].name : "");
    }
  }
  return out;
}

std::int64_t keep_bytes(const std::string& text) {
  const auto mib = number(text);
  if (!mib || *mib < 0) throw RequestError("--keep_mib '{}' is neither auto nor a number of MiB", text);
  return static_cast<std::int64_t>(*mib * 1048576.0);
}

std::optional<int> prefetch(const std::string& text) {
  if (text == "auto") return std::nullopt;
  const auto units = number(text);
  if (!units || *units < 0 || *units > 1000 || *units != std::floor(*units)) {
    throw RequestError("--prefetch '{}' is neither auto nor a number of units", text);
  }
  return static_cast<int>(*units);
}

}  // namespace

std::optional<std::int64_t> EngineFlags::budget_bytes() const {
  if (memory_budget <= 0) return std::nullopt;
  return static_cast<std::int64_t>(memory_budget * static_cast<double>(std::int64_t{1} << 30));
}

void bind_inference(Options& o, EngineFlags& f) {
  o.add("memory_budget", &f.memory_budget,
        "memory that a rank may take, all in all; 0: what the host or GPU has free, less a reserve",
        {.group = "Engine", .unit = "GiB", .min = 0});
  o.add("placement", &f.placement,
        "frozen weights: cut over all ranks (world) or those of a node (node), whole on each rank (resident), or what "
        "the budget says (auto)",
        {.group = "Engine", .choices = {"auto", "world", "node", "resident"}});
  o.add("resident_frozen", &f.resident_frozen, "the same as --placement resident", {.group = "Engine"});
  o.add("prefetch", &f.prefetch, "units gathered ahead of their use, 0: none; auto: 1, or 0 when the budget needs it",
        {.group = "Engine"});
  o.add("keep_mib", &f.keep_mib, "gathered weights that may stay after their use; auto: what the budget leaves",
        {.group = "Engine", .unit = "MiB"});
  o.add("offload_frozen", &f.offload_frozen, "frozen weights in host memory; auto: when nothing else fits a GPU",
        {.group = "Engine", .choices = {"auto", "true", "false"}});
}

void bind(Options& o, EngineFlags& f) {
  bind_inference(o, f);
  const OptionInfo engine{.group = "Engine"};
  const OptionInfo choice{.group = "Engine", .choices = {"auto", "true", "false"}};
  o.add("gradient_checkpointing", &f.gradient_checkpointing,
        "units may recompute activations in backward; which, says --recompute", engine);
  o.add("recompute", &f.recompute,
        "units that recompute their activations: auto (as few as the budget needs), all, none, a fraction, or "
        "substrings of their names, comma separated",
        engine);
  o.add("layer_major", &f.layer_major,
        "micro-batches that run layer by layer together, so that one gather serves all of them; 1: one after another",
        {.group = "Engine", .min = 1});
  o.add("reproducible", &f.reproducible,
        "the same bits for any number of ranks; auto: on CPUs, where it costs little, and not on GPUs", choice);
  o.add("tf32", &f.tf32, "matrix products of fp32 in TF32, on GPUs", engine);
  o.add("offload_optimizer", &f.offload_optimizer,
        "masters and moments in host memory; auto: when nothing else fits a GPU", choice);
  bind(o, f.quantize, "Engine");
  bind_references(o, f.quantize, "Engine");
}

void validate(const EngineFlags& f) {
  if (f.resident_frozen && f.placement != "auto" && f.placement != "resident") {
    throw RequestError("--resident_frozen contradicts --placement {}", f.placement);
  }
  if (!f.gradient_checkpointing && f.recompute != "auto" && f.recompute != "none") {
    throw RequestError("--recompute {} contradicts --gradient_checkpointing false", f.recompute);
  }
  if (f.recompute.empty()) throw RequestError("--recompute is empty; none is the word for no unit");
  const auto fraction = number(f.recompute);
  if (fraction && (*fraction < 0 || *fraction > 1)) {
    throw RequestError("--recompute {} is no fraction from 0 to 1", f.recompute);
  }
  if (f.keep_mib != "auto") keep_bytes(f.keep_mib);
  f.quantize.kind();
  prefetch(f.prefetch);
}

shard::PlanChoices choices(const EngineFlags& f, const nn::ModelLayout& layout) {
  shard::PlanChoices out;
  const std::string placement = f.resident_frozen ? "resident" : f.placement;
  if (placement == "world") out.frozen = shard::Placement::world;
  if (placement == "node") out.frozen = shard::Placement::node;
  if (placement == "resident") out.frozen = shard::Placement::resident;
  if (f.keep_mib != "auto") out.keep_bytes = keep_bytes(f.keep_mib);
  out.prefetch = prefetch(f.prefetch);
  out.offload_optimizer = yes_or_no(f.offload_optimizer);
  out.offload_frozen = yes_or_no(f.offload_frozen);
  if (!f.gradient_checkpointing || f.recompute == "none") {
    out.recompute_fraction = 0.0;
  } else if (f.recompute == "all") {
    out.recompute_fraction = 1.0;
  } else if (const auto fraction = number(f.recompute)) {
    out.recompute_fraction = *fraction;
  } else if (f.recompute != "auto") {
    out.recompute = named_units(f.recompute, layout);
  }
  return out;
}

void check_layer_major(const EngineFlags& f, std::int64_t micro_batches) {
  if (micro_batches % f.layer_major == 0) return;
  throw RequestError("--layer_major {} does not divide the {} micro-batches of a rank and step", f.layer_major,
                     micro_batches);
}

void apply(const EngineFlags& f, shard::EngineConfig& config) {
  config.prefetch = prefetch(f.prefetch).value_or(1);
  config.layer_major = static_cast<int>(f.layer_major);
  const bool cpu = config.device.is_cpu();
  if (f.tf32) {
    at::globalContext().setAllowTF32CuBLAS(*f.tf32);
    at::globalContext().setAllowTF32CuDNN(*f.tf32);
  }
  config.reproducible = yes_or_no(f.reproducible).value_or(cpu);
  if (config.reproducible && !cpu) {
    // A kernel that has no deterministic form says so in a warning rather than ending the run.
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
}

}  // namespace tessera::train
