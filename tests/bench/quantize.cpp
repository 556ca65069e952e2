// How fast weights are packed and expanded on the CPU, by one thread: what a load and each use of a quantised matrix
// cost beside the matrix product.
//
//     OMP_NUM_THREADS=1 build/tests/bench/bench_quantize [ROWS COLUMNS]      (default 4096 4096)
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "tessera/core/quantize.hpp"

namespace {

using namespace tessera;

// The fastest of five runs, in values a second.
void report(const std::string& what, std::int64_t values, const std::function<void()>& run) {
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::printf("%-28s %8.2f ms %8.2f G values/s\n", what.c_str(), best * 1e3, static_cast<double>(values) / best / 1e9);
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t rows = argc > 2 ? std::atoll(argv[1]) : 4096, columns = argc > 2 ? std::atoll(argv[2]) : 4096;
  const std::int64_t count = rows * columns, blocks = quant_blocks(count);
  std::vector<float> values(static_cast<std::size_t>(count)), out(values.size());
  for (std::int64_t i = 0; i < count; ++i)
    values[static_cast<std::size_t>(i)] = static_cast<float>((i * 7919) % 2003 - 1001) * 1e-5F;
  std::vector<std::uint8_t> packed(static_cast<std::size_t>((count + 1) / 2)), codes(static_cast<std::size_t>(blocks));
  std::vector<float> absmax(codes.size()), absmax2(static_cast<std::size_t>(nested_blocks(blocks)));
  for (const auto kind : {QuantKind::nf4, QuantKind::fp4}) {
    const std::string name(name_of(kind));
    report("pack " + name, count, [&] { quantize_blocks(kind, values.data(), count, packed.data(), absmax.data()); });
    report("expand " + name, count, [&] { dequantize_blocks(kind, packed.data(), absmax.data(), count, out.data()); });
  }
  report("pack the scales", blocks, [&] { quantize_scales(absmax.data(), blocks, codes.data(), absmax2.data()); });
  report("expand the scales", blocks,
         [&] { dequantize_scales(codes.data(), absmax2.data(), 0.01F, 0, blocks, absmax.data()); });
  std::vector<std::int8_t> bytes(values.size());
  std::vector<float> scales(static_cast<std::size_t>(rows));
  report("pack int8", count, [&] {
    for (std::int64_t r = 0; r < rows; ++r) {
      auto& scale = scales[static_cast<std::size_t>(r)];
      scale = row_scale(values.data() + r * columns, columns);
      quantize_row(values.data() + r * columns, columns, scale, bytes.data() + r * columns);
    }
  });
  report("expand int8", count, [&] {
    for (std::int64_t r = 0; r < rows; ++r) {
      dequantize_row(bytes.data() + r * columns, columns, scales[static_cast<std::size_t>(r)],
                     out.data() + r * columns);
    }
  });
  return 0;
}
