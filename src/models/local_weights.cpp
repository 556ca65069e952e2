#include "tessera/models/local_weights.hpp"

#include <fmt/ranges.h>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>

#include "tessera/core/error.hpp"
#include "tessera/io/names.hpp"

namespace tessera::models {

namespace {

/// A model whose head is its embedding has no head of its own; some files have it all the same.
bool is_tied_head(const std::string& name, const nn::ModelLayout& layout) {
  const bool embeds = layout.find("model.embed_tokens.weight") || layout.find("transformer.wte.weight");
  return name == "lm_head.weight" && embeds;
}

bool is_text_half_of_clip(const std::string& name) {
  constexpr std::array<std::string_view, 4> kParts{"text_model.", "text_projection", "visual_projection",
                                                   "logit_scale"};
  return std::any_of(kParts.begin(), kParts.end(),
                     [&](std::string_view part) { return name.find(part) != std::string::npos; });
}

}  // namespace

std::string unexpected_text(const std::vector<std::string>& unused, const nn::ModelLayout& layout) {
  constexpr std::size_t kMost = 20;
  std::vector<std::string> strange;
  for (const std::string& name : unused) {
    if (io::is_recomputed_buffer(name) || is_tied_head(name, layout) || is_text_half_of_clip(name)) continue;
    strange.push_back(name);
  }
  if (strange.empty()) return "";
  const std::size_t count = strange.size();
  strange.resize(std::min(count, kMost));
  return fmt::format("{} tensor{} of the files {} no part of the model: {}{}", count, count == 1 ? "" : "s",
                     count == 1 ? "is" : "are", fmt::join(strange, ", "),
                     count > kMost ? fmt::format(" and {} more", count - kMost) : "");
}

std::vector<std::string> load_local(nn::ModelLayout& layout, const io::TensorSource& source) {
  std::vector<std::string> wrong, unused;
  for (const nn::Param& param : layout.params()) {
    const io::TensorInfo* info = source.find(param->name);
    if (info == nullptr) {
      wrong.push_back(fmt::format("'{}' is missing", param->name));
    } else if (info->shape != param->shape) {
      wrong.push_back(fmt::format("'{}' is [{}] in {}, expected [{}]", param->name, fmt::join(info->shape, ","),
                                  source.where(*info), fmt::join(param->shape, ",")));
    }
  }
  for (const io::TensorInfo& info : source.tensors()) {
    if (!layout.find(info.name)) unused.push_back(info.name);
  }
  if (!wrong.empty()) {
    for (const std::string& name : unused) wrong.push_back(fmt::format("'{}' is unexpected", name));
  }
  if (!wrong.empty()) throw RequestError("weights do not fit the model: {}", fmt::join(wrong, "; "));
  for (const nn::Param& param : layout.params()) {
    at::Tensor value = at::empty(param->shape, at::kFloat);
    source.read_f32(*source.find(param->name), 0, param->numel(), value.data_ptr<float>());
    value.requires_grad_(param->trainable && !param->buffer);
    param->bind(std::move(value));
  }
  return unused;
}

}  // namespace tessera::models
