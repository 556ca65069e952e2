#include "models/golden.hpp"

#include <ATen/core/Tensor.h>

#include <algorithm>

namespace tessera::testing_support {

testing::AssertionResult close(const at::Tensor& found, const at::Tensor& wanted, double rtol, double atol) {
  if (!found.defined()) return testing::AssertionFailure() << "undefined";
  if (found.sizes() != wanted.sizes()) {
    return testing::AssertionFailure() << "shape " << found.sizes() << ", expected " << wanted.sizes();
  }
  if (wanted.numel() == 0) return testing::AssertionSuccess();
  const at::Tensor f = found.detach().to(at::kCPU, at::kDouble).flatten();
  const at::Tensor w = wanted.detach().to(at::kCPU, at::kDouble).flatten();
  const at::Tensor excess = f.sub(w).abs().sub(w.abs().mul(rtol).add(atol));
  const auto worst = excess.nan_to_num(1e300).argmax().item<std::int64_t>();
  if (excess[worst].item<double>() <= 0) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "element " << worst << " is " << f[worst].item<double>() << ", expected "
                                     << w[worst].item<double>();
}

int expect_all_close(const io::TensorMap& found, const io::TensorMap& wanted,
                     std::initializer_list<std::string_view> skip) {
  int compared = 0;
  for (const auto& [name, value] : wanted) {
    if (std::any_of(skip.begin(), skip.end(), [&](std::string_view prefix) { return name.starts_with(prefix); }))
      continue;
    const auto at = found.find(name);
    if (at == found.end()) {
      ADD_FAILURE() << "output '" << name << "' is missing";
      continue;
    }
    EXPECT_TRUE(close(at->second, value)) << "output '" << name << "'";
    ++compared;
  }
  return compared;
}

}  // namespace tessera::testing_support
