#pragma once
// What the tests of checkpoints save and load: the toy model with its engine and optimiser.
#include <gtest/gtest.h>

#include "shard/toy_model.hpp"
#include "tessera/comm/fabric.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/shard/optimizer.hpp"

namespace tessera::shard::toy {

struct Job {
  explicit Job(comm::Communicator& comm, bool with_adapter = true)
      : model(with_adapter),
        engine(model.layout, comm::Fabric::on_host(comm), {}),
        optimizer(engine, {}, {{"all", 1e-3, 0.0}}, [](const nn::ParamState&) { return 0U; }) {
    LoadPolicy policy;
    policy.seed = 5;
    policy.may_initialize = [](const nn::ParamState&) { return true; };
    engine.load(toy::NoTensors(), policy);
    engine.settle();
  }
  // Values that tell tensor, position and kind of state apart, whatever the cut.
  void mark(float shift = 0) {
    for (auto& slice : engine.trained()) {
      for (const auto& piece : slice.pieces) {
        for (std::int64_t i = 0; i < piece.count; ++i) {
          const auto where = piece.slice_begin + i;
          const float base = value(piece.tensor, piece.tensor_begin + i, slice) + shift;
          slice.master.data_ptr<float>()[where] = base;
          slice.exp_avg.data_ptr<float>()[where] = base + 0.25F;
          slice.exp_avg_sq.data_ptr<float>()[where] = base + 0.5F;
        }
      }
    }
    optimizer.set_steps(17);
  }
  void expect_marked(float shift = 0) {
    for (auto& slice : engine.trained()) {
      for (const auto& piece : slice.pieces) {
        for (std::int64_t i = 0; i < piece.count; ++i) {
          const auto where = piece.slice_begin + i;
          const float base = value(piece.tensor, piece.tensor_begin + i, slice) + shift;
          ASSERT_EQ(slice.master.data_ptr<float>()[where], base);
          ASSERT_EQ(slice.exp_avg.data_ptr<float>()[where], base + 0.25F);
          ASSERT_EQ(slice.exp_avg_sq.data_ptr<float>()[where], base + 0.5F);
        }
      }
    }
    EXPECT_EQ(optimizer.steps(), 17);
  }
  static float value(std::size_t tensor, std::int64_t at, const TrainedSlice& slice) {
    return static_cast<float>(slice.layout->tensors()[tensor].param->name.size() * 1000 + static_cast<std::size_t>(at));
  }

  ToyModel model;
  Engine engine;
  Optimizer optimizer;
};

}  // namespace tessera::shard::toy
