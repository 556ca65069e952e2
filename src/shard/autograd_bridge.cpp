#include "shard/autograd_bridge.hpp"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace tessera::shard {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Only an exact at::TensorList argument of a Function's forward is seen by autograd as the tensors in it.
// std::function and pointers do not fit in the context's IValues; a capsule of our own does.
struct Capsule : torch::CustomClassHolder {
  BackwardHooks* hooks = nullptr;
  nn::UnitId unit = -1;
  nn::UnitFn fn, again;
  std::vector<bool> needs_grad;
};

c10::intrusive_ptr<Capsule> capsule_of(AutogradContext* ctx) {
  return c10::static_intrusive_pointer_cast<Capsule>(ctx->saved_data.at("capsule").toCapsule());
}

bool differentiable(const at::Tensor& t) {
  return t.defined() && at::isFloatingType(t.scalar_type());
}

class CheckpointFunction : public torch::autograd::Function<CheckpointFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, c10::intrusive_ptr<Capsule> capsule, at::TensorList inputs,
                               const at::Tensor& /*anchor*/) {
    variable_list plain;
    plain.reserve(inputs.size());
    for (const auto& t : inputs) {
      capsule->needs_grad.push_back(t.defined() && t.requires_grad());
      plain.push_back(t.defined() ? t.detach() : t);
    }
    variable_list outputs = capsule->fn(plain);  // grad mode is off inside a Function's forward
    ctx->save_for_backward(inputs.vec());
    ctx->saved_data["capsule"] = c10::IValue::make_capsule(capsule);
    variable_list constant;
    for (const auto& t : outputs) {
      if (!differentiable(t)) constant.push_back(t);
    }
    ctx->mark_non_differentiable(constant);
    ctx->set_materialize_grads(false);
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grad_outputs) {
    const auto capsule = capsule_of(ctx);
    variable_list inputs = ctx->get_saved_variables();
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (!inputs[i].defined()) continue;
      inputs[i] = inputs[i].detach();
      if (capsule->needs_grad[i]) inputs[i].set_requires_grad(true);
    }
    capsule->hooks->enter_backward(capsule->unit);
    {
      const at::AutoGradMode with_graph(true);
      const variable_list outputs = capsule->again(inputs);
      variable_list roots, grads;
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        if (!grad_outputs[i].defined() || !outputs[i].defined() || !outputs[i].requires_grad()) continue;
        roots.push_back(outputs[i]);
        grads.push_back(grad_outputs[i]);
      }
      if (!roots.empty()) torch::autograd::backward(roots, grads);
    }
    capsule->hooks->leave_backward(capsule->unit);
    variable_list result;
    result.reserve(inputs.size() + 2);
    result.emplace_back();  // the capsule
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      result.push_back(inputs[i].defined() && capsule->needs_grad[i] ? inputs[i].grad() : at::Tensor());
    }
    result.emplace_back();  // the anchor: its gradient is nobody's
    return result;
  }
};

template <bool kEnter>
class MarkFunction : public torch::autograd::Function<MarkFunction<kEnter>> {
 public:
  static variable_list forward(AutogradContext* ctx, c10::intrusive_ptr<Capsule> capsule, at::TensorList tensors) {
    ctx->saved_data["capsule"] = c10::IValue::make_capsule(capsule);
    ctx->set_materialize_grads(false);
    return tensors.vec();
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto capsule = capsule_of(ctx);
    if constexpr (kEnter) {
      capsule->hooks->enter_backward(capsule->unit);
    } else {
      capsule->hooks->leave_backward(capsule->unit);
    }
    grads.insert(grads.begin(), at::Tensor());
    return grads;
  }
};

template <bool kEnter>
nn::Tensors mark(BackwardHooks& hooks, nn::UnitId unit, const nn::Tensors& tensors) {
  // Only tensors that carry gradients pass through, so that integer and constant ones stay what they are.
  nn::Tensors carried;
  std::vector<std::size_t> where;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].defined() && tensors[i].requires_grad()) {
      carried.push_back(tensors[i]);
      where.push_back(i);
    }
  }
  if (carried.empty()) return tensors;
  auto capsule = c10::make_intrusive<Capsule>();
  capsule->hooks = &hooks;
  capsule->unit = unit;
  carried = MarkFunction<kEnter>::apply(std::move(capsule), at::TensorList(carried));
  nn::Tensors out = tensors;
  for (std::size_t k = 0; k < where.size(); ++k) out[where[k]] = carried[k];
  return out;
}

}  // namespace

nn::Tensors run_checkpointed(BackwardHooks& hooks, nn::UnitId unit, const nn::Tensors& inputs, const nn::UnitFn& fn,
                             const nn::UnitFn& again, const at::Tensor& anchor) {
  auto capsule = c10::make_intrusive<Capsule>();
  capsule->hooks = &hooks;
  capsule->unit = unit;
  capsule->fn = fn;
  capsule->again = again;
  return CheckpointFunction::apply(std::move(capsule), at::TensorList(inputs), anchor);
}

nn::Tensors mark_inputs(BackwardHooks& hooks, nn::UnitId unit, const nn::Tensors& inputs) {
  return mark<false>(hooks, unit, inputs);
}

nn::Tensors mark_outputs(BackwardHooks& hooks, nn::UnitId unit, const nn::Tensors& outputs) {
  return mark<true>(hooks, unit, outputs);
}

void run_backward(const at::Tensor& loss) {
  torch::autograd::backward({loss}, {});
}

}  // namespace tessera::shard
