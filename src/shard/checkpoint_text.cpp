// What is in a checkpoint, for people.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "shard/checkpoint_format.hpp"
#include "tessera/shard/checkpoint.hpp"
#include "tessera/shard/moments8.hpp"

namespace tessera::shard {

namespace {

double mib(std::int64_t bytes) {
  return static_cast<double>(bytes) / 1048576.0;
}

std::int64_t elements_of(const CheckpointInfo::Tensor& tensor) {
  std::int64_t n = 1;
  for (const auto extent : tensor.shape) n *= extent;
  return n;
}

// Of a tensor whose moments may be codes.
std::int64_t bytes_with_codes(const CheckpointInfo& info, const CheckpointInfo::Tensor& t) {
  const auto n = elements_of(t);
  const auto moments = keeps_exact_moments(t.name, n) ? 8 * n : 2 * (n + 4 * ((n + kMomentBlock - 1) / kMomentBlock));
  return moments + 4 * n * (info.average ? 2 : 1);
}

}  // namespace

std::string describe_checkpoint(const std::filesystem::path& folder) {
  const auto info = read_manifest(folder);
  std::string out = fmt::format("checkpoint {}\n", folder.string());
  out += fmt::format("  step {}, {} updates of the optimiser, written by {} ranks of tessera {}\n", info.step,
                     info.optimizer_steps, info.ranks, info.program);
  out += fmt::format("  frozen base: not in it, digest {}\n", format::hex(info.frozen_digest));
  out += fmt::format("  trainer: {}\n", info.trainer_state);
  out += "files\n";
  for (const auto& file : info.files) {
    out += fmt::format("  {}.safetensors  {:10.2f} MiB, table {}.json\n", file.stem, mib(file.bytes), file.stem);
  }
  out += fmt::format("tensors, each as fp32 master{} and the states of {}\n", info.average ? ", average" : "",
                     info.optimizer);
  std::int64_t elements = 0;
  for (const auto& t : info.tensors) elements += elements_of(t);
  // Headers are far smaller than a state.
  const std::int64_t states = elements > 0 ? (info.bytes + 2 * elements) / (4 * elements) : 0;
  const bool eight_bit = info.optimizer == name_of(OptimizerKind::adamw_8bit);
  std::size_t widest = 0;
  for (const auto& t : info.tensors) widest = std::max(widest, t.name.size());
  for (const auto& t : info.tensors) {
    const auto n = elements_of(t);
    const auto bytes = eight_bit ? bytes_with_codes(info, t) : 4 * states * n;
    out += fmt::format("  {:<{}}  {:10.2f} MiB  [{}]\n", t.name, widest, mib(bytes), fmt::join(t.shape, ", "));
  }
  out += fmt::format("{} tensors of {} elements, {} files of {:.2f} MiB\n", info.tensors.size(), elements,
                     info.files.size(), mib(info.bytes));
  return out;
}

}  // namespace tessera::shard
