#include "tessera/models/reparameterize.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "models/golden.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/models/forward.hpp"

namespace tessera::models {
namespace {

namespace fs = std::filesystem;
using testing_support::golden_model;

TEST(Reparameterize, WritesTheFolderThatThePublicPackageWrites) {
  for (const std::string name :
       {"fastvit_apple", "fastvit_timm", "fastvit_apple_two_heads", "fastvit_timm_two_heads"}) {
    const testing_support::TempDir dir;
    const fs::path out = dir / "folded";
    const ReparameterizeReport report = reparameterize_folder({golden_model(name + "_branches"), out});
    EXPECT_GE(report.folded, 12) << name;
    // The same names as well: both packages read it.
    const auto wanted = io::read_tensors(golden_model(name + "_folded") / "model.safetensors");
    const auto found = io::read_tensors(out / "model.safetensors");
    EXPECT_EQ(testing_support::expect_all_close(found, wanted), static_cast<int>(wanted.size())) << name;
    EXPECT_EQ(found.size(), wanted.size()) << name;
    EXPECT_EQ(read_json(out / "config.json").raw(), read_json(golden_model(name + "_folded") / "config.json").raw());

    ForwardRequest request;
    request.model = out;
    const auto given = io::read_tensors(golden_model(name + "_branches") / "inputs.safetensors");
    const auto expected = io::read_tensors(golden_model(name + "_branches") / "expected.safetensors");
    EXPECT_EQ(testing_support::expect_all_close(run_forward(request, given), expected, {"grad."}), 3) << name;
  }
}

std::string error_of(const fs::path& model, const fs::path& output) {
  try {
    reparameterize_folder({model, output});
  } catch (const RequestError& error) {
    return error.what();
  }
  return "";
}

TEST(Reparameterize, RefusesWhatHasNothingToFold) {
  const testing_support::TempDir dir;
  const fs::path out = dir / "out";
  EXPECT_NE(error_of(golden_model("fastvit_timm_folded"), out).find("no branches"), std::string::npos);
  EXPECT_NE(error_of(golden_model("fastvlm_apple"), out).find("no branches"), std::string::npos);
  EXPECT_NE(error_of(golden_model("clip_28px"), out).find("neither"), std::string::npos);
  EXPECT_NE(error_of(golden_model("llava_hf_llama"), out).find("no FastViTHD"), std::string::npos);
  EXPECT_FALSE(fs::exists(out));
  const fs::path own = golden_model("fastvit_timm_branches");
  EXPECT_NE(error_of(own, own).find("own folder"), std::string::npos);
}

}  // namespace
}  // namespace tessera::models
