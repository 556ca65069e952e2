#include "tessera/shard/source_digest.hpp"

#include <algorithm>
#include <atomic>

#include "shard/digest.hpp"
#include "shard/slice_loader.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"

namespace tessera::shard {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 19;

struct Part {
  const io::TensorInfo* tensor;
  std::uint64_t key;
  std::int64_t begin;
};

/// Chunks of all tensors, in the same order on every rank.
std::vector<Part> parts_of(const io::TensorSource& source, const std::vector<nn::Param>& params,
                           const std::function<std::string(const nn::ParamState&)>& name_of) {
  std::vector<Part> parts;
  for (const auto& param : params) {
    const auto* tensor = source.find(param->name);
    if (tensor == nullptr) throw RequestError("weights do not hold {}", param->name);
    if (tensor->shape != param->shape) {
      throw RequestError("{} is {} in {}, the model has {}", param->name, io::shape_text(tensor->shape),
                         source.where(*tensor), io::shape_text(param->shape));
    }
    const auto key = hash_name(name_of(*param));
    for (std::int64_t at = 0; at < param->numel(); at += kChunk) parts.push_back({tensor, key, at});
  }
  return parts;
}

}  // namespace

std::uint64_t source_digest(const io::TensorSource& source, const std::vector<nn::Param>& params,
                            const std::function<std::string(const nn::ParamState&)>& name_of,
                            comm::Communicator& comm) {
  std::atomic<std::uint64_t> digest{0};
  comm::on_every_rank(comm, [&] {
    const auto all = parts_of(source, params, name_of);
    std::vector<Part> mine;
    for (auto i = static_cast<std::size_t>(comm.rank()); i < all.size(); i += static_cast<std::size_t>(comm.size()))
      mine.push_back(all[i]);
    run_parallel(mine.size(), own_threads(comm.size()), [&](std::size_t i) {
      const Part& part = mine[i];
      const auto numel = part.tensor->numel();
      std::vector<float> values(static_cast<std::size_t>(std::min(kChunk, numel - part.begin)));
      const auto count = static_cast<std::int64_t>(values.size());
      source.read_f32(*part.tensor, part.begin, count, values.data());
      digest += digest_piece(part.key, numel, part.begin, values.data(), count);
    });
  });
  auto total = static_cast<std::int64_t>(digest.load());
  comm.all_reduce({&total, 1, comm::DType::i64});
  return static_cast<std::uint64_t>(total);
}

}  // namespace tessera::shard
