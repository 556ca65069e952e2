// The engine on GPUs and NCCL: the same training as on the CPU, to rounding.
#include <gtest/gtest.h>

#include "shard/toy_training.hpp"
#include "tessera/comm/nccl.hpp"
#include "tessera/comm/transports.hpp"

namespace tessera::shard {
namespace {

using toy::ToyModel;
constexpr int kMicro = 4;

std::string why_not(const comm::MpiEnv& env) {
  if (!comm::built_with_cuda()) return "this build has no CUDA";
  const int count = comm::gpu_count();
  if (count >= env.local_size()) return "";
  return "needs a GPU for each of " + std::to_string(env.local_size()) + " ranks, this host has " +
         std::to_string(count);
}

EngineConfig configured(bool recompute, Placement placement, bool offload, bool reproducible) {
  EngineConfig c;
  c.policy = {placement, recompute, offload};
  c.offload_optimizer = offload;
  c.reproducible = reproducible;
  return c;
}

TEST(ShardGpu, TrainsAsTheCpuDoes) {
  comm::MpiEnv env(nullptr, nullptr);
  if (const auto reason = why_not(env); !reason.empty()) GTEST_SKIP() << "skipped: " << reason;
  const ToyModel model;
  comm::Transports host(env, comm::TransportOptions{.device = "cpu"});
  const auto want = toy::train(model, host.fabric(), {}, 5, kMicro);
  host.close();
  comm::Transports device(env, comm::TransportOptions{.device = "cuda"});
  for (const bool recompute : {true, false}) {
    for (const auto placement : {Placement::world, Placement::node, Placement::resident}) {
      for (const bool offload : {false, true}) {
        for (const bool reproducible : {false, true}) {
          auto config = configured(recompute, placement, offload, reproducible);
          config.device = c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device.gpu()->info().index));
          const auto got = toy::train(model, device.fabric(), config, 5, kMicro);
          for (std::size_t i = 0; i < want.losses.size(); ++i) {
            EXPECT_NEAR(got.losses[i], want.losses[i], 1e-4 * want.losses[i]) << "step " << i;
            EXPECT_NEAR(got.norms[i], want.norms[i], 1e-3 * want.norms[i]) << "step " << i;
          }
        }
      }
    }
  }
  device.close();
}

TEST(ShardGpu, Bf16StaysNearFp32) {
  comm::MpiEnv env(nullptr, nullptr);
  if (const auto reason = why_not(env); !reason.empty()) GTEST_SKIP() << "skipped: " << reason;
  const ToyModel model;
  comm::Transports device(env, comm::TransportOptions{.device = "cuda"});
  auto config = configured(true, Placement::world, false, false);
  config.device = c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device.gpu()->info().index));
  const auto want = toy::train(model, device.fabric(), config, 5, kMicro);
  config.compute = ComputeType::bf16;
  const auto got = toy::train(model, device.fabric(), config, 5, kMicro);
  for (std::size_t i = 0; i < want.losses.size(); ++i) EXPECT_NEAR(got.losses[i], want.losses[i], 0.1 * want.losses[i]);
  device.close();
}

}  // namespace
}  // namespace tessera::shard
