#pragma once
/// Which weights train.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/nn/param.hpp"

namespace tessera::adapt {

enum class TrainScope : std::uint8_t {
  lisa,  ///< LISA's: adapters, embed_tokens, lm_head, text_hidden_fcs and SAM's mask decoder
  lora,  ///< adapters alone
  full,  ///< everything but buffers
};
/// "lisa", "lora" or "full"; throws RequestError otherwise.
TrainScope train_scope_from_name(std::string_view name);

/// Sets ParamState::trainable of every weight. Call it after adapters are attached.
void mark_trainable(nn::ModelLayout& layout, TrainScope scope);
/// Adapters, and weights whose name contains one of `substrings`. Throws RequestError for one that matches nothing.
void mark_trainable(nn::ModelLayout& layout, const std::vector<std::string>& substrings);

}  // namespace tessera::adapt
