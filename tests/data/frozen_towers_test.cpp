// Features of frozen towers in shards: what the towers give, for any number of ranks; and out of them by the loader.
#include "tessera/data/frozen_towers.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/stack.h>
#include <gtest/gtest.h>

#include "data/toy.hpp"
#include "data/toy_towers.hpp"
#include "support/limits.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/comm/solo.hpp"
#include "tessera/core/error.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/data/prepare.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/lisa_folder.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;
using testing_support::message_of;

class FrozenTowersTest : public testing::Test {
 protected:
  FrozenTowersTest() {
    if (comm->rank() == 0) dir.emplace();
    root = comm::broadcast_text(*comm, dir ? dir->path().string() : "");
    comm::on_rank_zero(*comm, [&] {
      toy::write_small_set(root / "data");
      toy::write_model_with_towers(root / "model", 5);
    });
  }
  ~FrozenTowersTest() override { comm->close(); }

  PrepareConfig config(const std::string& output) const {
    auto config = toy::small_config(root / "data", root / output);
    config.version = (root / "model").string();
    config.store_features = "clip,sam";
    config.shard_mib = 1;
    return config;
  }
  static PrepareOutcome prepare(const PrepareConfig& config, comm::Communicator& on, bool resident = true) {
    FrozenTowers towers(tower_request(config), {comm::Fabric::on_host(on), c10::Device(c10::DeviceType::CPU),
                                                shard::ComputeType::f32, resident, 1});
    return run_prepare(config, on, Log(), "", &towers);
  }

  comm::MpiEnv env{nullptr, nullptr};
  std::unique_ptr<comm::Communicator> comm = comm::make_mpi(env);
  std::optional<testing_support::TempDir> dir;
  fs::path root;
};

TEST_F(FrozenTowersTest, ShardsAreTheSameForAnyNumberOfRanksAndAfterAStop) {
  prepare(config("together"), *comm);
  prepare(config("cut"), *comm, /*resident=*/false);
  comm::on_rank_zero(*comm, [&] {
    const auto solo = comm::make_solo();
    prepare(config("alone"), *solo);
    const auto expected = toy::files_of(root / "alone");
    EXPECT_GE(expected.size(), 4U);
    for (const char* other : {"together", "cut"}) {
      const auto found = toy::files_of(root / other);
      ASSERT_EQ(found.size(), expected.size());
      for (const auto& [name, bytes] : expected) EXPECT_TRUE(found.at(name) == bytes) << other << ' ' << name;
    }
  });
  comm::on_rank_zero(*comm, [&] {
    for (const auto& [name, bytes] : toy::files_of(root / "together")) {
      if (name.starts_with("val")) fs::remove(root / "together" / name);
    }
  });
  const auto again = prepare(config("together"), *comm);
  EXPECT_GT(again.shards_kept, 0);
  EXPECT_LT(again.shards_kept, static_cast<std::int64_t>(again.manifest.shards.size()));
  comm::on_rank_zero(*comm, [&] {
    const auto found = toy::files_of(root / "together");
    for (const auto& [name, bytes] : toy::files_of(root / "alone")) {
      EXPECT_TRUE(!name.ends_with(".h5") || found.at(name) == bytes) << name;
    }
  });
}

TEST_F(FrozenTowersTest, AFolderMadeByOtherWeightsIsRefused) {
  prepare(config("out"), *comm);
  comm::on_rank_zero(*comm, [&] {
    fs::remove_all(root / "model");
    toy::write_model_with_towers(root / "model", 6);
  });
  const auto said = message_of<RequestError>([&] { prepare(config("out"), *comm); });
  EXPECT_NE(said.find("another preparation"), std::string::npos) << said;
}

TEST_F(FrozenTowersTest, HoldsTheTowersOutputsRoundedToBf16) {
  prepare(config("out"), *comm);
  const at::NoGradGuard no_grad;
  const auto folder = models::read_lisa_folder({root / "model", "", "", ""});
  nn::ModelLayout layout;
  const auto base = folder.lisa.language.base();
  const auto clip = models::make_vision_tower(layout, folder.lisa.tower, base + ".vision_tower.vision_tower");
  const models::SamImageEncoder sam(layout, folder.lisa.sam, base + ".visual_model.image_encoder");
  nn::materialize(layout, 5);  // values depend on seed and name: those of the file
  nn::LocalRunner runner;
  InputSpec pixels;
  pixels.sam_size = folder.lisa.sam.image_size;
  describe_tower(folder.tower, folder.lisa.tower, pixels);
  auto stored = pixels;
  const auto shards = Shards::open((root / "out").string(), "val", {});
  for (const auto& one : shards.features()) (one.name == "sam" ? stored.stored_sam : stored.stored_clip) = one.shape;
  ASSERT_EQ(stored.stored_sam, (std::vector<std::int64_t>{64, 8, 8}));
  ASSERT_EQ(stored.stored_clip, (std::vector<std::int64_t>{4, 64}));
  const auto bf16 = [](const at::Tensor& t) { return t.to(at::kBFloat16); };
  for (std::int64_t row = 0; row < shards.size(); ++row) {
    CollateReport report;
    const auto with_pixels = collate({shards.read(row)}, {1}, shards.header(), pixels, Purpose::training, report);
    const auto brought =
        collate({shards.read(row, stored.reads(true))}, {1}, shards.header(), stored, Purpose::training, report);
    EXPECT_FALSE(brought.images.defined() || brought.images_clip.defined());
    EXPECT_EQ(brought.resize[0].height, with_pixels.resize[0].height);
    EXPECT_EQ(brought.original[0].width, with_pixels.original[0].width);
    // A batch of another size may round otherwise in its last bit, rarely.
    const auto close = [&](const at::Tensor& a, const at::Tensor& b) {
      return a.sizes() == b.sizes() && a.to(at::kFloat).allclose(b.to(at::kFloat), 0.01, 1e-3);
    };
    EXPECT_TRUE(close(brought.clip_features, bf16(clip->features(with_pixels.images_clip, runner, {}))));
    EXPECT_TRUE(close(brought.sam_features, bf16(sam.forward(with_pixels.images, runner, {}))));
  }
}

TEST_F(FrozenTowersTest, TheLoaderGivesTheSameFeaturesOnOneToThreeRanksAndRefusesAugmentation) {
  prepare(config("out"), *comm);
  const auto shards = Shards::open((root / "out").string(), "train", {});
  InputSpec spec;
  spec.sam_size = 64;
  for (const auto& one : shards.features()) (one.name == "sam" ? spec.stored_sam : spec.stored_clip) = one.shape;
  LoaderConfig config;
  config.batch_size = 1;
  config.global_batch_size = 6;
  config.workers = 2;
  config.prefetch_mib = 1;
  Loader alone(config, spec, shards, 7, 0, 1);
  const auto whole = alone.next();
  for (const int world : {2, 3}) {
    for (int rank = 0; rank < world; ++rank) {
      Loader loader(config, spec, shards, 7, rank, world);
      const auto own = loader.next();
      for (std::size_t i = 0; i < own.micro.size(); ++i) {
        const auto& other = whole.micro[i * static_cast<std::size_t>(world) + static_cast<std::size_t>(rank)].batch;
        EXPECT_TRUE(at::equal(own.micro[i].batch.clip_features, other.clip_features));
        EXPECT_TRUE(at::equal(own.micro[i].batch.sam_features, other.sam_features));
      }
    }
  }
  config.augment.flip = 0.5;
  const auto said = message_of<RequestError>([&] { Loader(config, spec, shards, 7, 0, 1); });
  EXPECT_NE(said.find("augmentation is off"), std::string::npos) << said;
}

TEST_F(FrozenTowersTest, RefusesTowersThatAreNotThere) {
  auto c = config("out");
  c.store_features = "clip,dino";
  EXPECT_NE(message_of<RequestError>([&] { prepare(c, *comm); }).find("'dino'"), std::string::npos);
  c.store_features = "clip,clip";
  EXPECT_THROW(prepare(c, *comm), RequestError);
  c = config("out");
  c.version = toy::model_folder().string();  // no weights
  EXPECT_NE(message_of<RequestError>([&] { prepare(c, *comm); }).find("missing"), std::string::npos);
}

}  // namespace
}  // namespace tessera::data
