#include "tessera/comm/device.hpp"

#include <gtest/gtest.h>

#include "comm/cuda_plugin.hpp"
#include "tessera/core/error.hpp"

namespace tessera::comm {
namespace {

std::string error_of_open(int local_rank, int local_size) {
  try {
    Gpu::open(local_rank, local_size);
  } catch (const RequestError& error) {
    return error.what();
  }
  return "";
}

TEST(Device, SaysWhatIsMissingWhereThereAreTooFewGpus) {
  const int count = gpu_count();
  const std::string text = error_of_open(0, count + 1);
  EXPECT_NE(text.find(count == 0 ? "no GPU" : "ranks on a host with"), std::string::npos) << text;
}

TEST(Device, LoadsTheCudaPartsEvenWithoutAGpu) {
  if (!built_with_cuda()) {
    EXPECT_THROW(load_cuda_plugin(), RequestError);
    return;
  }
  const auto plugin = load_cuda_plugin();  // every library it names is there, every symbol resolves
  ASSERT_NE(plugin, nullptr);
  if (gpu_count() == 0) {
    try {
      plugin->info(0);
      FAIL() << "a GPU described where there is none";
    } catch (const CommError& error) {
      EXPECT_NE(std::string(error.what()).find("cudaGetDeviceProperties says"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace tessera::comm
