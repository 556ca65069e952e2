#include "tessera/image/processor.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "image/support.hpp"
#include "tessera/core/file.hpp"

namespace tessera::image {
namespace {

using testing_support::refusal;

TEST(Processor, IsAFileOrAPartOfOne) {
  const tessera::testing_support::TempDir folder;
  EXPECT_FALSE(find_processor(folder.path()));
  write_file(folder / "processor_config.json", R"({"processor_class": "LlavaProcessor", "patch_size": 14})");
  EXPECT_FALSE(find_processor(folder.path()));
  write_file(folder / "preprocessor_config.json", R"({"crop_size": 28})");
  auto found = find_processor(folder.path());
  ASSERT_TRUE(found);
  EXPECT_EQ(found->clip.crop, (Size{28, 28}));
  EXPECT_EQ(found->file.filename(), "preprocessor_config.json");
  write_file(folder / "processor_config.json", R"({"image_processor": {"crop_size": {"height": 42, "width": 56}}})");
  found = find_processor(folder.path());
  ASSERT_TRUE(found);
  EXPECT_EQ(found->clip.crop, (Size{42, 56}));
  EXPECT_EQ(found->file.filename(), "processor_config.json");
}

TEST(Processor, RefusalsNameTheFile) {
  const tessera::testing_support::TempDir folder;
  for (const char* text : {R"({"image_processor": {"crop_size": -1}})", R"({"image_processor": 3})", "{"}) {
    write_file(folder / "processor_config.json", text);
    EXPECT_THAT(refusal([&] { find_processor(folder.path()); }), testing::HasSubstr("processor_config.json")) << text;
  }
}

}  // namespace
}  // namespace tessera::image
