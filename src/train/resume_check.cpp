#include "train/resume_check.hpp"

#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"

namespace tessera::train {

void check_same_stream(const std::filesystem::path& checkpoint, const nlohmann::json& state, const SampleStream& own) {
  const auto images = state.at("images_per_step").get<std::int64_t>();
  if (images != own.images_per_step) {
    throw RequestError(
        "checkpoint {} was made with {} images a step, this run has {}: pass --global_batch_size {} to go on in the "
        "same stream",
        checkpoint.string(), images, own.images_per_step, images);
  }
  const auto same_seed = [&](const char* flag, std::uint64_t mine) {
    const auto made = state.value(flag, mine);
    if (made == mine) return;
    throw RequestError("checkpoint {} was made with --{} {}, this run has {}", checkpoint.string(), flag, made, mine);
  };
  same_seed("seed", own.seed);
  same_seed("data_seed", own.data_seed);
}

void check_same_threshold(const std::filesystem::path& checkpoint, const nlohmann::json& state,
                          const shard::Quantization& own) {
  if (own.kind != QuantKind::int8) return;
  const auto made = state.value("llm_int8_threshold", own.threshold);
  if (made == own.threshold) return;
  throw RequestError("checkpoint {} was made with --llm_int8_threshold {}, this run has {}", checkpoint.string(), made,
                     own.threshold);
}

}  // namespace tessera::train
