#include "tessera/train/quantize_flags.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <sstream>

#include "name_parts.hpp"
#include "tessera/adapt/targets.hpp"
#include "tessera/core/error.hpp"
#include "tessera/nn/layers.hpp"

namespace tessera::train {

namespace {

// Linear weights that the references quantise, whether they train or not.
std::vector<nn::Param> candidates(const nn::ModelLayout& layout, const std::vector<std::string>& skip) {
  std::vector<nn::Param> language, all;
  for (const auto& linear : layout.layers()) {
    if (linear->kind != nn::LayerKind::linear || has_component(linear->name, "lm_head")) continue;
    const auto in = [&](const std::string& module) { return has_component(linear->name, module); };
    if (std::any_of(skip.begin(), skip.end(), in)) continue;
    all.push_back(linear->weight);
    if (in_language_model(linear->name)) language.push_back(linear->weight);
  }
  return language.empty() ? all : language;
}

// Names whole flags of int8 that are given for nothing.
void check_int8_flags(const QuantizeFlags& flags, QuantKind kind) {
  if (flags.threshold && kind != QuantKind::int8) {
    throw RequestError("--llm_int8_threshold {} needs weights in int8 (--quantize int8, --load_in_8bit or --bits 8)",
                       *flags.threshold);
  }
  if (!flags.skip.empty() && kind == QuantKind::none) {
    throw RequestError("--llm_int8_skip_modules needs --quantize: nothing is converted without it");
  }
}

std::vector<std::string> components_of(const nn::ModelLayout& layout) {
  std::set<std::string> out;
  for (const auto& layer : layout.layers()) {
    std::istringstream text(layer->name);
    for (std::string part; std::getline(text, part, '.');) out.insert(part);
  }
  return {out.begin(), out.end()};
}

void check_skipped(const QuantizeFlags& flags, const nn::ModelLayout& layout) {
  for (const auto& module : flags.skip) {
    const auto inside = [&](const auto& layer) { return has_component(layer->name, module); };
    if (std::any_of(layout.layers().begin(), layout.layers().end(), inside)) continue;
    throw RequestError("--llm_int8_skip_modules '{}' is no module of the model{}", module,
                       adapt::suggestion(module, components_of(layout)));
  }
}

struct Packed {
  QuantKind kind = QuantKind::none;
  bool double_quant = false;
  std::optional<double> threshold;
  std::set<std::string> names;  // of matrices that do not train
};

Packed packed_in(const io::TensorSource& files, const nn::ModelLayout& layout) {
  Packed out;
  for (const auto& param : layout.params()) {
    const auto* info = files.find(param->name);
    const auto* parts = info == nullptr ? nullptr : files.packed(*info);
    if (parts == nullptr) continue;
    out.kind = parts->kind;
    out.double_quant = parts->double_quant();
    if (parts->threshold) out.threshold = parts->threshold;
    if (!param->trainable) out.names.insert(param->name);
  }
  return out;
}

std::string words(QuantKind kind, bool double_quant) {
  return fmt::format("{}{}", name_of(kind), double_quant ? " with double quantisation" : "");
}

shard::Quantization of_files(const QuantizeFlags& flags, Packed packed) {
  const auto asked = flags.kind();
  if (asked != QuantKind::none && asked != packed.kind) {
    throw RequestError(
        "the model's files hold weights in {} already; --quantize {} contradicts them: leave it out, or "
        "take the folder that they were made from",
        words(packed.kind, packed.double_quant), name_of(asked));
  }
  if (flags.double_quant && *flags.double_quant != packed.double_quant) {
    throw RequestError("the model's files hold weights in {}; --double_quant {} contradicts them: leave it out",
                       words(packed.kind, packed.double_quant), *flags.double_quant);
  }
  check_int8_flags(flags, packed.kind);
  if (!flags.skip.empty()) {
    throw RequestError(
        "the model's files hold weights in {} already, all but what they skip: leave --llm_int8_skip_modules out",
        words(packed.kind, packed.double_quant));
  }
  return {packed.kind, packed.double_quant, std::make_shared<const std::set<std::string>>(std::move(packed.names)),
          flags.threshold.value_or(packed.threshold.value_or(kOutlierThreshold))};
}

}  // namespace

QuantKind QuantizeFlags::kind() const {
  const std::array<std::pair<const char*, QuantKind>, 4> given{{
      {"--quantize", quant_kind(quantize)},
      {"--load_in_4bit", load_in_4bit ? QuantKind::nf4 : QuantKind::none},
      {"--load_in_8bit", load_in_8bit ? QuantKind::int8 : QuantKind::none},
      {"--bits", bits == 4   ? quant_kind(quant_type)
                 : bits == 8 ? QuantKind::int8
                             : QuantKind::none},
  }};
  if (bits != 4 && bits != 8 && bits != 16) throw RequestError("--bits {} is unknown; choose 4, 8 or 16", bits);
  const char* by = "";
  auto out = QuantKind::none;
  for (const auto& [flag, kind] : given) {
    if (kind == QuantKind::none) continue;
    if (out != QuantKind::none && kind != out) {
      throw RequestError("{} asks for {} and {} for {}", by, name_of(out), flag, name_of(kind));
    }
    out = kind;
    by = flag;
  }
  if (double_quant.value_or(false) && out == QuantKind::int8) {
    throw RequestError("--double_quant is of nf4 and fp4; int8 has one scale a row");
  }
  if (threshold && !(*threshold >= 0)) {
    throw RequestError("--llm_int8_threshold {} is below 0; 0 quantises every column", *threshold);
  }
  return out;
}

bool QuantizeFlags::double_quantised() const {
  const auto asked = kind();
  if (asked == QuantKind::none || asked == QuantKind::int8) return false;
  return double_quant.value_or(load_in_4bit || bits == 4);
}

void bind(Options& o, QuantizeFlags& f, const std::string& group) {
  o.add("quantize", &f.quantize,
        "frozen matrices of the language model in four bits (nf4, fp4) or eight (int8), as bitsandbytes has them; a "
        "folder that is quantised already stays so without it",
        {.group = group, .choices = {"none", "nf4", "fp4", "int8"}});
  o.add("double_quant", &f.double_quant,
        "nf4, fp4: the scales in eight bits as well; default: as the files have it, else true with --bits and "
        "--load_in_4bit, false with --quantize",
        {.group = group});
  o.add(
      "llm_int8_threshold", &f.threshold,
      "int8: columns of a layer's input with a magnitude from this on are multiplied unquantised, the others in eight "
      "bits by row; 0: all in eight bits; default: as the folder's config.json has it, else 6",
      {.group = group});
  o.add("llm_int8_skip_modules", &f.skip,
        "modules that are not quantised, besides the output layer: a component of their names, or more of it",
        {.group = group});
}

void bind_references(Options& o, QuantizeFlags& f, const std::string& group) {
  o.add("load_in_4bit", &f.load_in_4bit, "LISA's name for --quantize nf4 --double_quant true", {.group = group});
  o.add("load_in_8bit", &f.load_in_8bit, "LISA's name for --quantize int8", {.group = group});
  o.add("bits", &f.bits, "LLaVA's name: 4 is --quant_type with double quantisation, 8 is int8, 16 is none",
        {.group = group, .min = 4});
  o.add("quant_type", &f.quant_type, "of --bits 4", {.group = group, .choices = {"nf4", "fp4"}});
}

shard::Quantization quantization(const QuantizeFlags& flags, const nn::ModelLayout& layout,
                                 const io::TensorSource* files) {
  const auto kind = flags.kind();
  if (files != nullptr) {
    auto packed = packed_in(*files, layout);
    if (packed.kind != QuantKind::none) return of_files(flags, std::move(packed));
  }
  if (kind == QuantKind::none) {
    if (flags.double_quant.value_or(false)) throw RequestError("--double_quant needs --quantize nf4 or fp4");
    check_int8_flags(flags, kind);
    return {};
  }
  check_int8_flags(flags, kind);
  check_skipped(flags, layout);
  std::set<std::string> names;
  for (const auto& weight : candidates(layout, flags.skip)) {
    if (!weight->trainable) names.insert(weight->name);
  }
  if (names.empty()) {
    throw RequestError(
        "--quantize {}: every weight that could be quantised trains; quantised weights are frozen, so train "
        "adapters instead (--lora_r above 0; with --recipe llava, --lora_enable)",
        name_of(kind));
  }
  return {kind, flags.double_quantised(), std::make_shared<const std::set<std::string>>(std::move(names)),
          flags.threshold.value_or(kOutlierThreshold)};
}

void freeze_quantizable(const QuantizeFlags& flags, const nn::ModelLayout& layout, const io::TensorSource& files) {
  const bool asked = flags.kind() != QuantKind::none;
  for (const auto& weight : candidates(layout, flags.skip)) {
    const auto* info = files.find(weight->name);
    if (asked || (info != nullptr && files.packed(*info) != nullptr)) weight->trainable = false;
  }
}

std::string describe(const shard::Quantization& q) {
  const auto text = fmt::format("{} matrices in {}", q.weights->size(), words(q.kind, q.double_quant));
  return q.kind == QuantKind::int8 ? fmt::format("{}, outliers from {}", text, q.threshold) : text;
}

}  // namespace tessera::train
