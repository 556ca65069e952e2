// Frozen matrices in four and eight bits: each rank quantises its part, bytes travel, values are those of the whole
// matrix quantised at once, and no number of ranks or placement changes a bit.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mean.h>
#include <gtest/gtest.h>

#include "shard/packing.hpp"
#include "shard/toy_training.hpp"
#include "shard/two_nodes.hpp"
#include "tessera/core/error.hpp"
#include "tessera/nn/init.hpp"
#include "tessera/nn/layers.hpp"
#include "tessera/shard/plan.hpp"

namespace tessera::shard {
namespace {

using toy::ToyModel;
constexpr int kMicro = 12;

struct Form {
  const char* name;
  QuantKind kind;
  bool double_quant;
};
const std::vector<Form> kForms{{"nf4", QuantKind::nf4, false},
                               {"fp4", QuantKind::fp4, false},
                               {"nf4 double", QuantKind::nf4, true},
                               {"int8", QuantKind::int8, false}};

EngineConfig quantised(const Form& form, UnitPolicy policy = {}) {
  EngineConfig c;
  c.policy = policy;
  c.quantization = {form.kind, form.double_quant,
                    std::make_shared<const std::set<std::string>>(
                        std::set<std::string>{"frozen.weight", "mixed.weight", "out.weight"})};  // the last one trains
  return c;
}

// What bitsandbytes would make of a whole matrix.
std::vector<float> quantised_at_once(const std::vector<float>& values, std::int64_t columns, const Form& form) {
  const auto count = static_cast<std::int64_t>(values.size());
  std::vector<float> out(values.size());
  if (form.kind == QuantKind::int8) {
    std::vector<std::int8_t> codes(values.size());
    for (std::int64_t at = 0; at < count; at += columns) {
      const float scale = row_scale(values.data() + at, columns);
      quantize_row(values.data() + at, columns, scale, codes.data() + at);
      dequantize_row(codes.data() + at, columns, scale, out.data() + at);
    }
    return out;
  }
  std::vector<std::uint8_t> packed((values.size() + 1) / 2);
  std::vector<float> absmax(static_cast<std::size_t>(quant_blocks(count)));
  EXPECT_TRUE(quantize_blocks(form.kind, values.data(), count, packed.data(), absmax.data()));
  if (form.double_quant) {
    const auto blocks = static_cast<std::int64_t>(absmax.size());
    const float mean = at::mean(at::from_blob(absmax.data(), {blocks}, at::kFloat)).item<float>();
    for (auto& v : absmax) v -= mean;
    std::vector<std::uint8_t> codes(absmax.size());
    std::vector<float> absmax2(static_cast<std::size_t>(nested_blocks(blocks)));
    quantize_scales(absmax.data(), blocks, codes.data(), absmax2.data());
    dequantize_scales(codes.data(), absmax2.data(), mean, 0, blocks, absmax.data());
  }
  dequantize_blocks(form.kind, packed.data(), absmax.data(), count, out.data());
  return out;
}

using QuantizedTest = TwoNodesTest;

const std::vector<UnitPolicy> kPlaces{{Placement::world, true, false},
                                      {Placement::world, false, false},
                                      {Placement::node, true, false},
                                      {Placement::resident, true, false},
                                      {Placement::resident, false, true}};

TEST_F(QuantizedTest, ValuesAreThoseOfTheWholeMatrixQuantisedAtOnce) {
  for (const auto& form : kForms) {
    for (const auto& place : kPlaces) {
      const ToyModel model;
      Engine engine(model.layout, fabric(), quantised(form, place));
      engine.load(toy::NoTensors(), toy::drawn());
      engine.settle();
      for (const auto& [unit, weight] : {std::pair{model.frozen, model.frozen_w}, {model.mixed, model.mixed_w}}) {
        std::vector<float> drawn(static_cast<std::size_t>(weight->numel()));
        nn::fill_init(*weight, 11, 0, weight->numel(), drawn.data());
        const auto want = quantised_at_once(drawn, weight->shape[1], form);
        engine.with_gathered(unit, true, [&, w = weight] {
          const at::Tensor have = w->value().contiguous();
          for (std::size_t i = 0; i < want.size(); ++i) {
            ASSERT_EQ(have.const_data_ptr<float>()[i], want[i]) << form.name << " " << w->name << " at " << i;
          }
        });
      }
    }
  }
}

TEST_F(QuantizedTest, NoPlacementAndNoNumberOfRanksChangesABit) {
  const ToyModel model;
  for (const auto& form : kForms) {
    toy::Trained alone;
    if (const auto one = toy::first_ranks(*world, 1)) {
      alone = toy::train(model, comm::Fabric::on_host(*one), quantised(form), 3, kMicro);
      one->close();
    }
    std::vector<double> numbers = alone.losses;
    numbers.resize(3);
    world->broadcast({numbers.data(), 3, comm::DType::f64}, 0);
    std::int64_t weights = static_cast<std::int64_t>(alone.weights);
    world->broadcast({&weights, 1, comm::DType::i64}, 0);
    for (const auto& place : kPlaces) {
      const auto have = toy::train(model, fabric(), quantised(form, place), 3, kMicro);
      EXPECT_EQ(have.losses, numbers) << form.name;
      EXPECT_EQ(have.weights, static_cast<std::uint64_t>(weights)) << form.name;
    }
  }
}

TEST_F(QuantizedTest, ThePlanCountsQuantisedBytes) {
  const int own = kMicro / world->size();
  for (const auto& form : kForms) {
    for (const auto& place : kPlaces) {
      const ToyModel model;
      const auto config = quantised(form, place);
      const auto f = fabric();
      const auto plan = make_plan(model.layout, {world->size(), f.nodes(), config, own, {}});
      toy::train(model, f, config, 2, kMicro, [&](Engine& engine) {
        engine.reset_peaks();
        world->reset_counters();
        engine.begin_step();
        for (int m = 0; m < own; ++m) {
          engine.begin_pass(Pass::train);
          engine.backward(model.loss(toy::micro_ids(0, m), engine));
          engine.end_pass();
        }
        engine.reduce_held();
        engine.end_step();
        const auto memory = engine.memory();
        EXPECT_EQ(plan.memory.frozen, memory.frozen) << form.name;
        EXPECT_EQ(plan.memory.gathered_peak, memory.gathered_peak) << form.name;
        EXPECT_EQ(plan.memory.host, memory.host) << form.name;
        const auto found = world->counters().find("all_gather");
        EXPECT_EQ(plan.gathered_sent, found == world->counters().end() ? 0 : found->second.sent) << form.name;
      });
    }
  }
}

// A matrix of 1,000 blocks over any number of ranks, and the bytes that one gather of it sends.
TEST_F(QuantizedTest, AGatherOfNf4MovesAQuarterOfTheBytesOfBf16) {
  nn::ModelLayout layout;
  const auto unit = layout.add_unit("layer");
  const auto weight = layout.add(unit, "layer.weight", {240, 320}, nn::Init::normal(0.02));
  const auto moved = [&](EngineConfig config) {
    config.compute = ComputeType::bf16;
    Engine engine(layout, comm::Fabric::on_host(*world), config);
    engine.load(toy::NoTensors(), toy::drawn());
    engine.settle();
    world->reset_counters();
    engine.with_gathered(unit, false, [&] { EXPECT_EQ(weight->value().scalar_type(), at::kBFloat16); });
    const auto found = world->counters().find("all_gather");
    return found == world->counters().end() ? 0 : found->second.sent;
  };
  EngineConfig nf4;
  nf4.quantization = {QuantKind::nf4, true, std::make_shared<const std::set<std::string>>(std::set{weight->name})};
  const auto wide = moved({}), narrow = moved(nf4);
  if (world->size() == 1) GTEST_SKIP() << "one rank moves nothing";
  // Four bits a value, and a byte for 64 of them: 33 / 128 of two bytes a value, but for the padding of slices.
  EXPECT_NEAR(static_cast<double>(narrow) / static_cast<double>(wide), 33.0 / 128.0, 0.001);
}

TEST_F(QuantizedTest, TheDigestIsThatOfTheValuesWhateverTheCut) {
  for (const auto& form : kForms) {
    const ToyModel model;
    const auto digest = [&](const comm::Fabric& f, const UnitPolicy& place) {
      Engine engine(model.layout, f, quantised(form, place));
      engine.load(toy::NoTensors(), toy::drawn());
      engine.settle();
      return static_cast<std::int64_t>(engine.frozen_digest());
    };
    std::int64_t alone = 0;
    if (const auto one = toy::first_ranks(*world, 1)) {
      alone = digest(comm::Fabric::on_host(*one), {});
      one->close();
    }
    world->broadcast({&alone, 1, comm::DType::i64}, 0);
    for (const auto& place : kPlaces) EXPECT_EQ(digest(fabric(), place), alone) << form.name;
  }
}

TEST_F(QuantizedTest, OperationsOfAnyDeviceExpandToTheSameBits) {
  for (const auto& form : kForms) {
    nn::ModelLayout layout;
    const auto unit = layout.add_unit("layer");
    std::vector<nn::Param> weights;
    for (const auto& [name, shape] :
         {std::pair<const char*, std::vector<std::int64_t>>{"a", {33, 70}}, {"b", {1, 7}}, {"c", {129, 131}}}) {
      weights.push_back(layout.add(unit, name, shape, nn::Init::normal(0.5)));
    }
    GroupSpec spec;
    spec.quant = form.kind;
    spec.double_quant = form.double_quant;
    const int ranks = world->size();
    const GroupLayout cut(weights, ranks);
    Packing packing(spec, cut);
    const auto bytes = segment_bytes(spec, cut.slice());
    at::Tensor segments = at::zeros({bytes * ranks}, at::kByte);
    const at::Tensor mine = segments.narrow(0, bytes * world->rank(), bytes);
    for (const auto& piece : cut.pieces(world->rank())) {
      const auto grain = packing.grain(piece.tensor), numel = cut.tensors()[piece.tensor].numel;
      const auto begin = piece.tensor_begin / grain * grain;
      const auto end = std::min(numel, (piece.tensor_begin + piece.count + grain - 1) / grain * grain);
      std::vector<float> values(static_cast<std::size_t>(end - begin));
      nn::fill_init(*weights[piece.tensor], 3, begin, end - begin, values.data());
      packing.put(mine, world->rank(), piece.tensor, begin, end - begin, values.data());
    }
    packing.settle(mine, world->rank(), *world);
    const at::Tensor own = mine.clone();
    world->all_gather(comm::ConstBuffer{own.const_data_ptr(), bytes, comm::DType::bytes},
                      {segments.mutable_data_ptr(), bytes * ranks, comm::DType::bytes});
    at::Tensor have = at::zeros({cut.full()}, at::kFloat), want = at::zeros({cut.full()}, at::kFloat);
    packing.expand(segments, want);
    packing.expand_by_operations(segments, have);
    for (const auto& t : cut.tensors()) {
      EXPECT_TRUE(at::equal(have.narrow(0, t.offset, t.numel), want.narrow(0, t.offset, t.numel))) << form.name;
    }
  }
}

TEST_F(QuantizedTest, LayersInInt8AreToldTheirThresholdAndNoOthers) {
  nn::ModelLayout layout;
  const nn::Scope scope(layout, layout.add_unit("layer"), "");
  const nn::Linear packed(scope, "packed", 8, 8, false), trained(scope, "trained", 8, 8, false),
      plain(scope, "plain", 8, 8, false);
  layout.find("trained.weight")->trainable = true;
  EngineConfig config;
  config.quantization = {
      QuantKind::int8, false,
      std::make_shared<const std::set<std::string>>(std::set<std::string>{"packed.weight", "trained.weight"}), 2.5};
  const Engine with(layout, comm::Fabric::on_host(*world), config);
  EXPECT_EQ(packed.state().int8_threshold, 2.5);
  EXPECT_EQ(trained.state().int8_threshold, std::nullopt);
  EXPECT_EQ(plain.state().int8_threshold, std::nullopt);
  config.quantization.kind = QuantKind::nf4;
  const Engine without(layout, comm::Fabric::on_host(*world), config);
  EXPECT_EQ(packed.state().int8_threshold, std::nullopt);
}

TEST_F(QuantizedTest, AWeightThatIsNotFiniteIsNamed) {
  nn::ModelLayout layout;
  const auto unit = layout.add_unit("layer");
  const auto weight = layout.add(unit, "layer.weight", {64, 64}, nn::Init::normal(1e39));  // beyond fp32
  EngineConfig config;
  config.quantization = {QuantKind::nf4, false, std::make_shared<const std::set<std::string>>(std::set{weight->name})};
  Engine engine(layout, comm::Fabric::on_host(*world), config);
  try {
    engine.load(toy::NoTensors(), toy::drawn());
    FAIL();
  } catch (const RequestError& error) {
    EXPECT_NE(std::string(error.what()).find("layer.weight"), std::string::npos);
  }
}

}  // namespace
}  // namespace tessera::shard
