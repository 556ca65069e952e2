#pragma once
// Training steps of a recorded adapter, on as many ranks as this program was started with.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <vector>

#include "models/golden.hpp"
#include "tessera/comm/fabric.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/models/forward.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/shard/optimizer.hpp"

namespace tessera::testing_support {

/// What happens in a step besides the update, and by what the update multiplies the gradients.
struct AroundUpdate {
  std::function<void()> before = [] {};
  std::function<void()> after = [] {};
  double grad_scale = 1.0;
};

/// A golden model with its adapters over an engine.
class AdapterRun {
 public:
  /// adapters: folders inside the golden's. `attach` may put more on the model, and returns where its weights are.
  using Attach = std::function<io::SourcePtr(models::ForwardModel&)>;
  explicit AdapterRun(const std::string& golden, const std::vector<std::string>& adapters = {"adapter"},
                      const Attach& attach = {});

  /// One step from the recorded inputs. Every rank has the whole batch, so that each loss counts one part in the number
  /// of ranks.
  at::Tensor step(shard::Optimizer& optimizer, const AroundUpdate& around = {});
  /// torch's AdamW with the goldens' settings.
  shard::Optimizer optimizer();
  /// Every parameter that trains against the golden's tensors by their names in PEFT's file; returns how many.
  int expect_trained(const io::TensorMap& expected);

  std::filesystem::path folder() const { return folder_; }
  models::ForwardModel& model() { return *model_; }
  shard::Engine& engine() { return *engine_; }
  const io::TensorMap& inputs() const { return inputs_; }

 private:
  comm::MpiEnv env_{nullptr, nullptr};
  std::unique_ptr<comm::Communicator> comm_;
  std::filesystem::path folder_;
  io::TensorMap inputs_;
  std::unique_ptr<models::ForwardModel> model_;
  std::unique_ptr<shard::Engine> engine_;
};

}  // namespace tessera::testing_support
