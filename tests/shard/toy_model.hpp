#pragma once
// A small model with every kind of unit: frozen only, trained only, mixed, adapted, fused; sizes that divide by
// nothing.
#include <ATen/Tensor.h>
#define AT_PER_OPERATOR_HEADERS  // or the operators bring every function along
#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/relu.h>

#include "support/no_tensors.hpp"
#include "tessera/nn/param.hpp"
#include "tessera/nn/runner.hpp"
#include "tessera/nn/weighted.hpp"

namespace tessera::shard::toy {

using testing_support::NoTensors;

struct ToyModel {
  static constexpr std::int64_t kVocab = 37, kDim = 13, kInner = 29, kRank = 3, kClasses = 7;
  nn::ModelLayout layout;
  nn::Param table, frozen_w, frozen_b, mixed_w, mixed_b, scalar, head, lora_a, lora_b;
  nn::UnitId embed = -1, frozen = -1, mixed = -1, out = -1, adapters = -1;

  // `tied`: the last unit borrows the embedding's table instead of a head of its own.
  explicit ToyModel(bool with_adapter = true, bool tied = false) {
    embed = layout.add_unit("embed");
    table = layout.add(embed, "embed.weight", {kVocab, kDim}, nn::Init::normal(0.5));
    layout.mark_light(embed, /*backward_reads_weights=*/false);
    frozen = layout.add_unit("frozen");
    frozen_w = layout.add(frozen, "frozen.weight", {kInner, kDim}, nn::Init::fan_in(kDim));
    frozen_b = layout.add(frozen, "frozen.bias", {kInner}, nn::Init::normal(0.1));
    mixed = layout.add_unit("mixed");
    mixed_w = layout.add(mixed, "mixed.weight", {kDim, kInner}, nn::Init::fan_in(kInner));
    mixed_b = layout.add(mixed, "mixed.bias", {kDim}, nn::Init::normal(0.1));
    scalar = layout.add(mixed, "mixed.scale", {1}, nn::Init::ones());
    out = layout.add_unit("out");
    if (tied) {
      layout.mark_light(embed, /*backward_reads_weights=*/true);
      layout.borrow(out, embed);
      head = table;
    } else {
      head = layout.add(out, "out.weight", {kClasses, kDim}, nn::Init::fan_in(kDim));
    }
    for (const auto& p : {table, mixed_b, scalar, head}) p->trainable = true;
    if (with_adapter) {
      adapters = layout.add_unit("adapters", /*fused=*/true);
      lora_a = layout.add(adapters, "frozen.lora_A", {kRank, kDim}, nn::Init::normal(0.3));
      lora_b = layout.add(adapters, "frozen.lora_B", {kInner, kRank}, nn::Init::normal(0.3));
      lora_a->trainable = lora_b->trainable = true;
      layout.mark_adapted(frozen);
    }
  }

  // ids i64 [N] -> scalar: a sum over rows, so that shares of a batch add up to the whole batch's loss.
  at::Tensor loss(const at::Tensor& ids, nn::UnitRunner& runner) const {
    auto x = runner.run(
        embed, {ids}, [&](const nn::Tensors& in) -> nn::Tensors { return {at::embedding(table->value(), in[0])}; })[0];
    x = runner.run(frozen, {x}, [&](const nn::Tensors& in) -> nn::Tensors {
      at::Tensor y = at::linear(in[0], frozen_w->value(), frozen_b->value());
      // Adapters stay fp32 whatever the compute type.
      auto cast = [&](const nn::Param& p) { return p->value().to(in[0].scalar_type()); };
      if (lora_a) y = y + at::linear(at::linear(in[0], cast(lora_a)), cast(lora_b));
      return {at::relu(y)};
    })[0];
    x = runner.run(mixed, {x}, [&](const nn::Tensors& in) -> nn::Tensors {
      return {at::relu(at::linear(in[0], mixed_w->value(), mixed_b->value())) * scalar->value()};
    })[0];
    x = runner.run(
        out, {x}, [&](const nn::Tensors& in) -> nn::Tensors { return {nn::linear(in[0], head->value(), {})}; },
        [&](const nn::Tensors& in) -> nn::Tensors { return {nn::linear_without_value(in[0], head->value(), {})}; })[0];
    return (x * x).sum();
  }
};

}  // namespace tessera::shard::toy
