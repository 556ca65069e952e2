#pragma once
// What tests/golden/shard/optimizers.py wrote, and the gradients by which it was made.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <filesystem>
#include <string>

#include "tessera/io/safetensors.hpp"

namespace tessera::shard::golden {

class File {
 public:
  explicit File(const std::filesystem::path& path) : file_(path) {}
  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  at::Tensor read(const std::string& name) const {
    const auto& info = *file_.find(name);
    at::Tensor out = at::empty(info.shape, info.type == io::Elem::u8 ? at::kByte : at::kFloat);
    file_.read(info, 0, info.numel(), out.mutable_data_ptr());
    return out;
  }

 private:
  io::SafetensorsReader file_;
};

inline File optimizers() {
  return File(std::filesystem::path(TESSERA_SOURCE_DIR) / "tests/golden/shard/data/optimizers.safetensors");
}

// The script's formula(count, step)[k].
inline float value(std::int64_t k, std::int64_t step) {
  if (k % 11 == 3) return 0;
  const auto whole = ((k * 7919 + (step + 9) * 104729) % 2003 + 2003) % 2003 - 1001;
  return std::ldexp(static_cast<float>(whole) / 512, -static_cast<int>(k % 13));
}

}  // namespace tessera::shard::golden
