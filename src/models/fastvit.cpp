#include "tessera/models/fastvit.hpp"

#include <fmt/ranges.h>

#include "fastvit_blocks.hpp"
#include "tessera/core/error.hpp"

namespace tessera::models {

struct FastVit::Parts {
  struct Step {
    nn::UnitId unit = -1;
    std::function<at::Tensor(const at::Tensor&, const nn::ForwardContext&)> apply;
  };
  FastVitConfig config;
  std::string prefix;
  std::vector<Step> steps;
  std::vector<FastVitFold> folds;

  /// A unit under `name` with the block that `make` builds in its scope.
  template <class Make>
  void add(nn::ModelLayout& layout, const std::string& name, const Make& make) {
    const std::string full = prefix + "." + name;
    const nn::UnitId unit = layout.add_unit(full);
    const auto block =
        std::make_shared<const decltype(make(std::declval<nn::Scope>()))>(make(nn::Scope(layout, unit, full)));
    ConvList convs;
    if constexpr (requires { block->list(convs); }) {
      block->list(convs);
    } else {
      convs.push_back(block.get());  // a convolution alone
    }
    for (const RepConv* conv : convs) {
      if (auto fold = conv->fold()) folds.push_back(std::move(*fold));
    }
    steps.push_back({unit, [block](const at::Tensor& x, const nn::ForwardContext& ctx) {
                       if constexpr (requires { (*block)(x, ctx); }) {
                         return (*block)(x, ctx);
                       } else {
                         return (*block)(x);
                       }
                     }});
  }

  void add_stage(nn::ModelLayout& layout, const FastVitStage& stage, std::int64_t width_before) {
    const auto at = [](std::int64_t index) { return "network." + std::to_string(index); };
    const bool branches = config.branches;
    if (stage.down_index >= 0) {
      add(layout, at(stage.down_index),
          [&](const nn::Scope& scope) { return FastVitDownsample(scope, width_before, stage.width, branches); });
    }
    if (stage.position_index >= 0) {
      add(layout, at(stage.position_index),
          [&](const nn::Scope& scope) { return RepConv::position(scope, stage.width, branches); });
    }
    for (std::int64_t b = 0; b < stage.blocks; ++b) {
      add(layout, at(stage.block_index) + "." + std::to_string(b),
          [&](const nn::Scope& scope) { return FastVitBlock(scope, stage, branches); });
    }
  }

  /// head.proj is part of the files and of the count; forward never uses it.
  void add_head(nn::ModelLayout& layout) const {
    if (config.projection == 0) return;
    const nn::UnitId unit = layout.add_unit(prefix + ".head");
    nn::Scope(layout, unit, prefix).param("head.proj", {config.width(), config.projection}, nn::Init::normal(0.02));
    layout.mark_idle(unit);
  }
};

FastVit::FastVit(nn::ModelLayout& layout, const FastVitConfig& config, const std::string& prefix)
    : parts_(std::make_unique<Parts>()) {
  parts_->config = config;
  parts_->prefix = prefix;
  parts_->add(layout, "patch_embed", [&](const nn::Scope& scope) { return FastVitStem(scope, config); });
  std::int64_t width = config.stages.front().width;
  for (const FastVitStage& stage : config.stages) {
    parts_->add_stage(layout, stage, width);
    width = stage.width;
  }
  parts_->add(layout, "conv_exp", [&](const nn::Scope& scope) { return FastVitExpansion(scope, config); });
  parts_->add_head(layout);
}

FastVit::~FastVit() = default;
FastVit::FastVit(FastVit&&) noexcept = default;

const FastVitConfig& FastVit::config() const {
  return parts_->config;
}

std::vector<FastVitFold> FastVit::folds() const {
  return parts_->folds;
}

at::Tensor FastVit::forward(const at::Tensor& pixels, nn::UnitRunner& runner, const nn::ForwardContext& ctx) const {
  if (pixels.dim() != 4 || pixels.size(1) != 3 || pixels.size(2) < 1 || pixels.size(3) < 1)
    throw RequestError("FastViT takes pictures [N,3,H,W], not {}", fmt::join(pixels.sizes(), "x"));
  at::Tensor x = pixels;
  for (const Parts::Step& step : parts_->steps) {
    x = runner
            .run(step.unit, {x}, [&step, ctx](const nn::Tensors& in) { return nn::Tensors{step.apply(in.at(0), ctx)}; })
            .at(0);
  }
  return x;
}

}  // namespace tessera::models
