#include "tessera/train/adalora.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "tessera/core/error.hpp"

namespace tessera::train {

namespace {

// Parts of a slice by the parameter they belong to: `fn(parameter, first element, part)`.
void visit_pieces(const shard::TrainedSlice& slice, const at::Tensor& of_slice,
                  const std::function<void(const nn::ParamState&, std::int64_t, const at::Tensor&)>& fn) {
  for (const auto& piece : slice.pieces) {
    fn(*slice.layout->tensors()[piece.tensor].param, piece.tensor_begin,
       of_slice.narrow(0, piece.slice_begin, piece.count));
  }
}

// Every parameter of the slice's group, whole, from all ranks' parts of a state.
std::map<const nn::ParamState*, at::Tensor> gather_state(shard::Engine& engine, const shard::TrainedSlice& slice,
                                                         const at::Tensor& mine) {
  const at::Tensor own = mine.to(engine.config().device).contiguous();
  const at::Tensor full = at::empty({slice.layout->full()}, own.options());
  const auto floats = [](const at::Tensor& t) { return comm::Buffer{t.data_ptr(), t.numel(), comm::DType::f32}; };
  engine.fabric().gather->all_gather(floats(own), floats(full));
  std::map<const nn::ParamState*, at::Tensor> out;
  for (const auto& t : slice.layout->tensors())
    out[t.param.get()] = full.narrow(0, t.offset, t.numel).view(t.param->shape);
  return out;
}

}  // namespace

AdaLora::AdaLora(shard::Engine& engine, adapt::Lora& lora)
    : engine_(engine), lora_(lora), config_(lora.config.adalora.value()) {
  if (!slice().sensitivity.defined()) throw RunError("adalora: the engine keeps no importance of the adapters");
}

shard::TrainedSlice& AdaLora::slice() {
  for (auto& slice : engine_.trained()) {
    if (slice.layout->tensors().front().param->unit == lora_.unit) return slice;
  }
  throw RunError("adalora: the adapters do not train");
}

double AdaLora::regularise(double scale) {
  const at::NoGradGuard no_grad;
  const double factor = scale * weight() / static_cast<double>(2 * (lora_.layers.size() + lora_.empty.size()));
  std::map<const nn::ParamState*, at::Tensor> gradients;
  for (const auto& layer : lora_.layers) {
    gradients[layer.a.get()] = adapt::orthogonality_gradient(layer.a->value()).mul_(factor).flatten();
    gradients[layer.b.get()] = adapt::orthogonality_gradient(layer.b->value().t()).mul_(factor).t().flatten();
  }
  const auto& own = slice();
  visit_pieces(own, own.grad, [&](const nn::ParamState& param, std::int64_t begin, const at::Tensor& part) {
    const auto found = gradients.find(&param);
    if (found != gradients.end()) part.add_(found->second.narrow(0, begin, part.numel()).to(part.device()));
  });
  return adapt::orthogonality(lora_).item<double>();
}

void AdaLora::before_update() {
  const auto& own = slice();
  gradient_ = own.grad.to(own.master.device(), at::kFloat, /*non_blocking=*/false, /*copy=*/true);
}

void AdaLora::allocate(std::int64_t step, double grad_scale) {
  const at::NoGradGuard no_grad;
  const std::int64_t last = config_.total_step - config_.tfinal;
  if (step > last) return mask();
  const auto layers = static_cast<std::int64_t>(lora_.layers.size() + lora_.empty.size());
  const auto budget = adapt::rank_budget(config_, config_.init_r * layers, layers, step);
  if (step < last) update_importance(grad_scale);
  if (budget.allocate || step == last) choose(budget.triplets);
}

void AdaLora::update_importance(double grad_scale) {
  auto& own = slice();
  adapt::update_importance(config_, own.master, gradient_.mul(grad_scale), own.sensitivity, own.uncertainty);
  gradient_ = at::Tensor();
}

void AdaLora::choose(std::int64_t budget) {
  const auto& own = slice();
  const auto scores = gather_state(engine_, own, own.sensitivity * own.uncertainty);
  std::vector<at::Tensor> of_triplets;
  for (const auto& layer : lora_.layers) {
    of_triplets.push_back(
        adapt::triplet_scores(scores.at(layer.a.get()), scores.at(layer.e.get()), scores.at(layer.b.get())));
  }
  const auto kept = adapt::allocate_triplets(of_triplets, budget);
  for (std::size_t i = 0; i < kept.size(); ++i) config_.rank_pattern[lora_.layers[i].target->name] = kept[i];
  mask();
}

void AdaLora::mask() {
  std::map<const nn::ParamState*, at::Tensor> factors;
  for (const auto& layer : lora_.layers) {
    const auto found = config_.rank_pattern.find(layer.target->name);
    if (found == config_.rank_pattern.end()) continue;
    const std::vector<float> kept(found->second.begin(), found->second.end());
    factors[layer.e.get()] = at::tensor(kept, at::TensorOptions().dtype(at::kFloat));
  }
  const auto& own = slice();
  visit_pieces(own, own.master, [&](const nn::ParamState& param, std::int64_t begin, const at::Tensor& part) {
    const auto found = factors.find(&param);
    if (found == factors.end()) return;
    const at::Tensor out = found->second.narrow(0, begin, part.numel()).eq(0).to(part.device());
    part.masked_fill_(out, 0.0);
  });
}

std::string AdaLora::state() const {
  return nlohmann::json(config_.rank_pattern).dump();
}

void AdaLora::restore(const std::string& state) {
  const auto json = nlohmann::json::parse(state, nullptr, /*allow_exceptions=*/false);
  try {
    config_.rank_pattern = json.get<std::map<std::string, std::vector<bool>>>();
  } catch (const nlohmann::json::exception&) {
    throw RequestError("the checkpoint has no rank pattern of AdaLoRA; it is of a run with another kind of adapter");
  }
}

}  // namespace tessera::train
