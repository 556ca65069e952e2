// What the ranks compare: the plan before the first step, the schedule and the gradients of every step.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <sstream>

#include "shard/engine_impl.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/hash.hpp"
#include "tessera/core/random.hpp"
#include "tessera/core/version.hpp"

namespace tessera::shard {

namespace {

// One line for the program and the settings, one for each unit: what all ranks must have alike.
std::vector<std::string> plan_lines(const nn::ModelLayout& layout, const EngineConfig& config, int world, int nodes) {
  std::vector<std::string> lines;
  lines.push_back(fmt::format("program {}", version_string()));
  lines.push_back(fmt::format(
      "settings: {} ranks, {} nodes, compute type {}, device type {}, prefetch {}, keep {} bytes, rows by {} bytes, "
      "{} moments, in 8 bits {}, average {}, importance of {}, offloaded optimiser {}, reproducible {}, layer major "
      "{}, quantised {} {}, "
      "outliers from {}",
      world, nodes, static_cast<int>(config.compute), static_cast<int>(config.device.type()), config.prefetch,
      config.keep_bytes, config.row_block_bytes, config.moments, config.moments_8bit, config.average, config.importance,
      config.offload_optimizer, config.reproducible, config.layer_major, name_of(config.quantization.kind),
      config.quantization.double_quant, config.quantization.threshold));
  for (std::size_t u = 0; u < layout.units().size(); ++u) {
    const auto& unit = layout.units()[u];
    const auto& policy = config.policy_of(u);
    std::string tensors;
    std::int64_t elements = 0, trained = 0;
    for (const auto& p : unit.params) {
      tensors += fmt::format("{} {} {} {}\n", p->name, fmt::join(p->shape, "x"), p->trainable,
                             config.quantization.covers(p->name));
      elements += p->numel();
      trained += p->trainable ? p->numel() : 0;
    }
    lines.push_back(fmt::format(
        "unit '{}': {} tensors, {} elements, {} trained, placement {}, recomputed {}, offloaded {}, fused {}, adapted "
        "{}, borrows [{}], names and shapes {:016x}",
        unit.name, unit.params.size(), elements, trained, static_cast<int>(policy.frozen), policy.recompute,
        policy.offload, unit.fused, unit.adapted, fmt::join(unit.borrows, ","),
        xxh3_64(tensors.data(), tensors.size())));
  }
  return lines;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

// "rank 0 has 'a', rank 2 has 'b'" for the first line in which some rank differs from rank 0; empty when none does.
std::string first_difference(const std::vector<std::vector<std::string>>& of_rank, std::size_t* where) {
  std::size_t longest = 0;
  for (const auto& lines : of_rank) longest = std::max(longest, lines.size());
  auto at = [&](std::size_t rank, std::size_t i) {
    return i < of_rank[rank].size() ? of_rank[rank][i] : std::string("nothing more");
  };
  for (std::size_t i = 0; i < longest; ++i) {
    for (std::size_t rank = 1; rank < of_rank.size(); ++rank) {
      if (at(rank, i) == at(0, i)) continue;
      *where = i;
      return fmt::format("rank 0 has: {}; rank {} has: {}", at(0, i), rank, at(rank, i));
    }
  }
  return {};
}

std::vector<std::int64_t> gather_words(comm::Communicator& control, const std::vector<std::int64_t>& mine) {
  const auto n = static_cast<std::int64_t>(mine.size());
  std::vector<std::int64_t> all(mine.size() * static_cast<std::size_t>(control.size()));
  control.all_gather({mine.data(), n, comm::DType::i64},
                     {all.data(), static_cast<std::int64_t>(all.size()), comm::DType::i64});
  return all;
}

// Sums of squares over blocks that no cut of the buffer divides, each in one order.
void add_squares(const at::Tensor& grad, ExactSum& sum) {
  const at::Tensor host = grad.to(c10::Device(c10::DeviceType::CPU)).contiguous();
  const auto* values = host.const_data_ptr<float>();
  static_assert(GroupLayout::kAlign % 8 == 0);
  for (std::int64_t begin = 0; begin < host.numel(); begin += GroupLayout::kAlign) {
    double lanes[8] = {};
    for (std::int64_t i = 0; i < GroupLayout::kAlign; i += 8) {
      for (std::int64_t k = 0; k < 8; ++k) {
        const double v = values[begin + i + k];
        lanes[k] += v * v;
      }
    }
    sum.add(((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7])));
  }
}

}  // namespace

void Engine::settle() {
  auto& e = *impl_;
  auto& control = *e.fabric.control;
  for (auto& g : e.groups) {
    if (auto* packing = g->packing()) packing->settle(g->loaded(), g->loaded_slice(), control);
    g->share_loaded(e.pool);
  }
  const auto text =
      fmt::format("{}", fmt::join(plan_lines(e.layout, e.config, e.fabric.size(), e.fabric.nodes()), "\n"));
  const auto hash = static_cast<std::int64_t>(xxh3_64(text.data(), text.size()));
  bool same = true;
  for (const auto theirs : gather_words(control, {hash})) same = same && theirs == hash;
  std::int64_t differs = same ? 0 : 1;
  control.all_reduce({&differs, 1, comm::DType::i64}, comm::ReduceOp::max);
  if (differs == 0) return;
  std::vector<std::vector<std::string>> of_rank;
  for (const auto& theirs : comm::gather_texts(control, text)) of_rank.push_back(lines_of(theirs));
  std::size_t where = 0;
  throw RequestError("the ranks of this job have different plans; start all of them with the same flags and files. {}",
                     first_difference(of_rank, &where));
}

std::string Engine::Impl::event_name(std::size_t index) const {
  const auto id = events[index] >> 1;
  const auto unit = static_cast<std::size_t>(group_unit[id]);
  return fmt::format("{} of {} weights of unit '{}'", (events[index] & 1) != 0 ? "reduction" : "gather",
                     groups[id]->trained() ? "trained" : "frozen", layout.units()[unit].name);
}

double Engine::Impl::norm_of_own_gradients(ExactSum* exact) const {
  const at::NoGradGuard no_grad;
  if (exact != nullptr) {
    for (const auto& slice : trained_slices) add_squares(slice.grad, *exact);
    return 0;
  }
  std::vector<at::Tensor> norms;
  for (const auto& slice : trained_slices)
    norms.push_back(at::linalg_vector_norm(slice.grad, 2, {}, false, at::kDouble));
  if (norms.empty()) return 0;
  const double norm = at::linalg_vector_norm(at::stack(norms)).item<double>();
  return norm * norm;
}

GradientReport Engine::check_gradients() {
  auto& e = *impl_;
  // The record of a rank: its part of the norm, its first parameter that is not finite, its schedule.
  std::vector<std::int64_t> mine(ExactSum::kWords + 1 + 3);
  ExactSum sum;
  const double rounded = e.norm_of_own_gradients(e.config.reproducible ? &sum : nullptr);
  if (!e.config.reproducible) sum.add(rounded);
  std::copy(sum.words().begin(), sum.words().end(), mine.begin());
  auto* extra = mine.data() + sum.words().size();
  extra[0] = -1;
  for (const auto& entry : e.gradient_norms) {
    const at::Tensor host = entry.norms.to(c10::Device(c10::DeviceType::CPU)).contiguous();
    for (std::int64_t i = 0; i < host.numel() && extra[0] < 0; ++i) {
      if (!std::isfinite(host.const_data_ptr<float>()[i])) extra[0] = static_cast<std::int64_t>(entry.group) << 32 | i;
    }
  }
  std::uint64_t hash = 0;
  for (const auto event : e.events) hash = mix64(hash ^ event);
  extra[1] = static_cast<std::int64_t>(hash);
  extra[2] = static_cast<std::int64_t>(e.events.size());

  const auto all = gather_words(*e.fabric.control, mine);
  GradientReport report;
  ExactSum total;
  bool same = true;
  for (int rank = 0; rank < e.fabric.size(); ++rank) {
    const auto* theirs = all.data() + static_cast<std::size_t>(rank) * mine.size();
    ExactSum part;
    std::copy(theirs, theirs + part.words().size(), part.words().begin());
    total.add(part);
    const auto* their_extra = theirs + part.words().size();
    same = same && their_extra[1] == all[part.words().size() + 1] && their_extra[2] == all[part.words().size() + 2];
    if (their_extra[0] < 0 || report.rank >= 0) continue;
    report.rank = rank;
    const auto& g = *e.groups[static_cast<std::size_t>(their_extra[0] >> 32)];
    report.parameter = g.layout().tensors()[static_cast<std::size_t>(their_extra[0] & 0xffffffff)].param->name;
  }
  if (!same) {
    std::string text;
    for (std::size_t i = 0; i < e.events.size(); ++i) text += e.event_name(i) + "\n";
    std::vector<std::vector<std::string>> of_rank;
    for (const auto& theirs : comm::gather_texts(*e.fabric.control, text)) of_rank.push_back(lines_of(theirs));
    std::size_t where = 0;
    const auto difference = first_difference(of_rank, &where);
    throw RunError("the ranks followed different schedules in this step, from collective {} on: {}", where, difference);
  }
  report.norm = std::sqrt(total.value());
  report.finite = report.rank < 0 && std::isfinite(report.norm);
  return report;
}

}  // namespace tessera::shard
