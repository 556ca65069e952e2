#include "tessera/adapt/trainable.hpp"

#include <algorithm>

#include "tessera/core/error.hpp"

namespace tessera::adapt {

TrainScope train_scope_from_name(std::string_view name) {
  if (name == "lisa") return TrainScope::lisa;
  if (name == "lora") return TrainScope::lora;
  if (name == "full") return TrainScope::full;
  throw RequestError("train_scope '{}' is not known; known are lisa, lora, full", name);
}

void mark_trainable(nn::ModelLayout& layout, TrainScope scope) {
  if (scope == TrainScope::lisa) {
    std::vector<std::string> parts{"mask_decoder", "text_hidden_fcs"};
    // MPT calls its embedding wte, and a tied head is the embedding.
    for (const char* part : {"lm_head", "embed_tokens", ".wte."}) {
      const auto params = layout.params();
      if (std::any_of(params.begin(), params.end(),
                      [&](const nn::Param& param) { return param->name.find(part) != std::string::npos; }))
        parts.emplace_back(part);
    }
    mark_trainable(layout, parts);
    return;
  }
  if (scope == TrainScope::lora) return mark_trainable(layout, std::vector<std::string>{});
  for (const nn::Param& param : layout.params()) param->trainable = !param->buffer;
}

void mark_trainable(nn::ModelLayout& layout, const std::vector<std::string>& substrings) {
  std::vector<bool> used(substrings.size(), false);
  for (const nn::Param& param : layout.params()) {
    bool trains = layout.unit(param->unit).fused;
    for (std::size_t i = 0; i < substrings.size(); ++i) {
      if (param->name.find(substrings[i]) == std::string::npos) continue;
      used[i] = true;
      trains = true;
    }
    param->trainable = trains && !param->buffer;
  }
  for (std::size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) throw RequestError("no weight's name contains '{}', which was to train", substrings[i]);
  }
}

}  // namespace tessera::adapt
