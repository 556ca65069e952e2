#include "tessera/train/quantize_flags.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "tessera/core/error.hpp"
#include "tessera/nn/layers.hpp"

namespace tessera::train {

namespace {

// Parts of a multimodal model that are no language model, by the components of their names.
constexpr std::array kOutside{"vision_tower", "visual_model", "mm_projector", "multi_modal_projector",
                              "text_hidden_fcs"};

bool has_component(const std::string& name, std::string_view wanted) {
  const auto framed = "." + name + ".";
  return framed.find(fmt::format(".{}.", wanted)) != std::string::npos;
}

bool in_language_model(const std::string& name) {
  return std::none_of(kOutside.begin(), kOutside.end(), [&](const char* part) { return has_component(name, part); });
}

// Linear weights that the references quantise, whether they train or not.
std::vector<nn::Param> candidates(const nn::ModelLayout& layout) {
  std::vector<nn::Param> language, all;
  for (const auto& linear : layout.layers()) {
    if (linear->kind != nn::LayerKind::linear || has_component(linear->name, "lm_head")) continue;
    all.push_back(linear->weight);
    if (in_language_model(linear->name)) language.push_back(linear->weight);
  }
  return language.empty() ? all : language;
}

struct Packed {
  QuantKind kind = QuantKind::none;
  bool double_quant = false;
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
  return {packed.kind, packed.double_quant, std::make_shared<const std::set<std::string>>(std::move(packed.names))};
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
    return {};
  }
  std::set<std::string> names;
  for (const auto& weight : candidates(layout)) {
    if (!weight->trainable) names.insert(weight->name);
  }
  if (names.empty()) {
    throw RequestError(
        "--quantize {}: every weight that could be quantised trains; quantised weights are frozen, so train "
        "adapters instead (--lora_r above 0; with --recipe llava, --lora_enable)",
        name_of(kind));
  }
  return {kind, flags.double_quantised(), std::make_shared<const std::set<std::string>>(std::move(names))};
}

void freeze_quantizable(const QuantizeFlags& flags, const nn::ModelLayout& layout, const io::TensorSource& files) {
  const bool asked = flags.kind() != QuantKind::none;
  for (const auto& weight : candidates(layout)) {
    const auto* info = files.find(weight->name);
    if (asked || (info != nullptr && files.packed(*info) != nullptr)) weight->trainable = false;
  }
}

std::string describe(const shard::Quantization& q) {
  return fmt::format("{} matrices in {}", q.weights->size(), words(q.kind, q.double_quant));
}

}  // namespace tessera::train
