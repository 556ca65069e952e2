// Weights in any of the formats open_weights tells apart: safetensors, torch's zip form, the older one.
#include <algorithm>
#include <vector>

#include "fuzz/input_file.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const tessera::fuzz::InputAsFile file(data, size);
  try {
    const auto source = tessera::io::open_weights(file.path());
    for (const auto& info : source->tensors()) {
      const std::int64_t count = std::min<std::int64_t>(info.numel(), 1000);
      std::vector<float> values(static_cast<std::size_t>(count));
      source->read_f32(info, 0, count, values.data());
      source->read_f32(info, info.numel() - count, count, values.data());
    }
  } catch (const tessera::RequestError&) {  // the one answer a broken file may get
  }
  return 0;
}
