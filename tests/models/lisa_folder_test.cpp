#include "tessera/models/lisa_folder.hpp"

#include <gtest/gtest.h>

#include <filesystem>

#include "models/golden.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::models {
namespace {

namespace fs = std::filesystem;
using testing_support::golden_model;

LisaFolderRequest request_for(const fs::path& folder) {
  LisaFolderRequest request;
  request.folder = folder;
  return request;
}

TEST(LisaFolder, ReadsConfigTowerAndTokenizer) {
  const LisaFolder folder = read_lisa_folder(request_for(golden_model("lisa_linear")));
  EXPECT_TRUE(folder.finished);
  EXPECT_EQ(folder.tower.filename(), "clip");
  EXPECT_EQ(folder.lisa.seg_token_id, 41);
  EXPECT_EQ(folder.lisa.language.vocab_size(), 44);
  EXPECT_EQ(folder.lisa.sam.image_size, 40);
  EXPECT_EQ(load_lisa_tokenizer(folder).require_id("<im_end>"), 43);
}

TEST(LisaFolder, ItsWeightsCoverTheModel) {
  const LisaFolder folder = read_lisa_folder(request_for(golden_model("lisa_mlp")));
  nn::ModelLayout layout;
  const LisaModel model(layout, folder.lisa);
  const auto weights = open_lisa_weights(folder);
  for (const nn::Param& param : layout.params()) {
    const io::TensorInfo* info = weights->find(param->name);
    ASSERT_NE(info, nullptr) << param->name;
    EXPECT_EQ(info->shape, param->shape) << param->name;
    EXPECT_FALSE(may_be_new(folder, *param)) << param->name;
  }
}

std::string error_of(const LisaFolderRequest& request) {
  try {
    read_lisa_folder(request);
  } catch (const RequestError& error) {
    return error.what();
  }
  return "";
}

TEST(LisaFolder, NamesTheFlagThatWouldMendAMissingTower) {
  const testing_support::TempDir dir;
  fs::copy(golden_model("lisa_linear"), dir.path(), fs::copy_options::recursive);
  fs::remove_all(dir / "clip");
  EXPECT_NE(error_of(request_for(dir.path())).find("--vision_tower"), std::string::npos);
  LisaFolderRequest mended = request_for(dir.path());
  mended.vision_tower = golden_model("lisa_linear") / "clip";
  EXPECT_EQ(error_of(mended), "");
  mended.vision_pretrained = dir / "no_sam.pth";
  EXPECT_NE(error_of(mended).find("--vision_pretrained"), std::string::npos);
}

TEST(LisaFolder, FindsTheTowerUnderTheHubFolder) {
  const testing_support::TempDir dir;
  fs::copy(golden_model("lisa_linear"), dir / "model", fs::copy_options::recursive);
  fs::create_directories(dir / "hub");
  fs::rename(dir / "model/clip", dir / "hub/clip");
  LisaFolderRequest request = request_for(dir / "model");
  EXPECT_NE(error_of(request), "");
  request.hub_dir = dir / "hub";
  EXPECT_EQ(error_of(request), "");
}

TEST(LisaFolder, RefusesAFolderWithoutConfig) {
  const testing_support::TempDir dir;
  EXPECT_NE(error_of(request_for(dir.path())).find("config.json"), std::string::npos);
  EXPECT_NE(error_of(request_for(dir / "nowhere")), "");
}

}  // namespace
}  // namespace tessera::models
