// Filling the slices: from files, each byte by the rank that owns it, or by a parameter's Init; and their digest.
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <unordered_set>

#include "shard/engine_impl.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"
#include "tessera/nn/init.hpp"

namespace tessera::shard {

namespace {

constexpr std::int64_t kChunk = std::int64_t{1}
                                << 20;  // elements converted at a time: bounds the memory above the slices

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

enum class Origin : std::uint8_t { file, init, file_then_init, missing, mis_shaped };

Origin origin_of(const nn::ParamState& param, const io::TensorInfo* info, const LoadPolicy& policy) {
  if (info == nullptr) return policy.may_initialize(param) ? Origin::init : Origin::missing;
  if (info->shape == param.shape) return Origin::file;
  // Same rows but fewer of them: a vocabulary before its tokens were added.
  const bool fewer_rows = !info->shape.empty() && info->shape.size() == param.shape.size() &&
                          std::equal(info->shape.begin() + 1, info->shape.end(), param.shape.begin() + 1) &&
                          info->shape[0] < param.shape[0];
  return fewer_rows && policy.may_extend_rows(param) ? Origin::file_then_init : Origin::mis_shaped;
}

}  // namespace

LoadReport Engine::load(const io::TensorSource& source, const LoadPolicy& policy) {
  auto& e = *impl_;
  LoadReport report;
  std::string problems;
  std::unordered_set<std::string> taken;
  for (const auto& unit : e.layout.units()) {
    for (const auto& param : unit.params) {
      const auto* info = source.find(param->name);
      if (info != nullptr) taken.insert(param->name);
      switch (origin_of(*param, info, policy)) {
        case Origin::file:
          ++report.tensors_read;
          break;
        case Origin::init:
          report.initialized.push_back(param->name);
          break;
        case Origin::file_then_init:
          ++report.tensors_read;
          report.extended.push_back(param->name);
          break;
        case Origin::missing:
          problems += fmt::format("\n  missing: {} {}", param->name, shape_text(param->shape));
          break;
        case Origin::mis_shaped:
          problems += fmt::format("\n  shape: {} is {} in {}, the model has {}", param->name, shape_text(info->shape),
                                  source.where(*info), shape_text(param->shape));
          break;
      }
    }
  }
  if (!problems.empty()) throw RequestError("weights do not fit the model:{}", problems);
  for (const auto& info : source.tensors()) {
    if (!taken.contains(info.name)) report.unused.push_back(info.name);
  }

  const at::NoGradGuard no_grad;
  std::vector<float> buffer;
  {
    for (auto& group : e.groups) {
      group->shard().zero_();
      const at::Tensor target = group->loaded();
      for (const auto& piece : group->loaded_pieces()) {
        const auto& param = *group->layout().tensors()[piece.tensor].param;
        const auto* info = source.find(param.name);
        const std::int64_t in_file = info == nullptr ? 0 : info->numel();
        for (std::int64_t done = 0; done < piece.count; done += kChunk) {
          const std::int64_t count = std::min(kChunk, piece.count - done);
          const std::int64_t begin = piece.tensor_begin + done;
          buffer.resize(static_cast<std::size_t>(count));
          const std::int64_t from_file = std::clamp<std::int64_t>(in_file - begin, 0, count);
          if (from_file > 0) {
            source.read_f32(*info, begin, from_file, buffer.data());
            report.bytes_read += from_file * static_cast<std::int64_t>(io::size_of(info->type));
          }
          if (from_file < count) {
            nn::fill_init(param, policy.seed, begin + from_file, count - from_file, buffer.data() + from_file);
          }
          const at::Tensor chunk = at::from_blob(buffer.data(), {count}, at::TensorOptions().dtype(at::kFloat));
          target.narrow(0, piece.slice_begin + done, count).copy_(chunk);
        }
      }
    }
  }
  return report;
}

std::uint64_t Engine::frozen_digest() const {
  auto& e = *impl_;
  std::uint64_t digest = 0;
  {
    for (const auto& group : e.groups) {
      if (group->trained()) continue;
      const at::Tensor source = group->loaded();
      for (const auto& piece : group->loaded_pieces()) {
        const auto& param = *group->layout().tensors()[piece.tensor].param;
        const std::uint64_t key = hash_name(param.name);
        const at::Tensor part = source.narrow(0, piece.slice_begin, piece.count)
                                    .to(c10::Device(c10::DeviceType::CPU), at::kFloat)
                                    .contiguous();
        const auto* values = part.const_data_ptr<float>();
        for (std::int64_t i = 0; i < piece.count; ++i) {
          std::uint32_t bits = 0;
          std::memcpy(&bits, values + i, sizeof bits);
          // A sum of mixed (position, value) pairs: any cut of the tensor over ranks gives the same total.
          digest += mix64(key ^ mix64(static_cast<std::uint64_t>(piece.tensor_begin + i) << 32 ^ bits));
        }
      }
    }
  }
  auto as_int = static_cast<std::int64_t>(digest);
  e.fabric.control->all_reduce({&as_int, 1, comm::DType::i64});
  return static_cast<std::uint64_t>(as_int);
}

}  // namespace tessera::shard
