#include "tessera/nn/rope.hpp"
#include "tessera/nn/upload.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tessera::nn {
namespace {

/// llama3: long wavelengths are divided by the factor, short ones kept, those between interpolated.
at::Tensor scale_llama3(const at::Tensor& inverse, const RopeConfig& config) {
  const at::Tensor wavelength = 2.0 * std::numbers::pi / inverse;
  const double low = config.original_max_positions / config.low_freq_factor;
  const double high = config.original_max_positions / config.high_freq_factor;
  const at::Tensor smooth = (config.original_max_positions / wavelength - config.low_freq_factor) /
                            (config.high_freq_factor - config.low_freq_factor);
  const at::Tensor blended = (1.0 - smooth) * inverse / config.factor + smooth * inverse;
  const at::Tensor long_waves = at::where(wavelength.gt(low), inverse / config.factor, inverse);
  return at::where(wavelength.ge(high).logical_and(wavelength.le(low)), blended, long_waves);
}

/// dynamic: the base grows with the part of the sequence that goes beyond what the model was trained on.
double dynamic_theta(const RopeConfig& config, std::int64_t length) {
  const double reach = std::max(static_cast<double>(length), config.max_positions) / config.max_positions;
  const auto dim = static_cast<double>(config.dim);
  return config.theta * std::pow(config.factor * reach - (config.factor - 1.0), dim / (dim - 2.0));
}

RopeTables tables_of(const RopeConfig& config, const at::Tensor& positions, std::int64_t length,
                     const at::TensorOptions& options) {
  const at::Tensor inverse = upload(rope_frequencies(config, length), options.device());
  at::Tensor angles = positions.to(at::kFloat).unsqueeze(-1) * inverse;
  if (angles.dim() == 3) angles = angles.unsqueeze(1);
  const at::Tensor both = at::cat({angles, angles}, -1);
  return {both.cos().to(options), both.sin().to(options)};
}

}  // namespace

at::Tensor rope_frequencies(const RopeConfig& config, std::int64_t length) {
  const at::Tensor exponent = at::arange(0, config.dim, 2, at::kFloat) / static_cast<double>(config.dim);
  const double theta = config.scaling == RopeConfig::Scaling::dynamic ? dynamic_theta(config, length) : config.theta;
  const at::Tensor inverse = 1.0 / at::pow(theta, exponent);
  if (config.scaling == RopeConfig::Scaling::linear) return inverse / config.factor;
  if (config.scaling == RopeConfig::Scaling::llama3) return scale_llama3(inverse, config);
  return inverse;
}

RopeTables rope_tables(const RopeConfig& config, std::int64_t positions, const at::TensorOptions& options) {
  const auto longs = at::TensorOptions().dtype(at::kLong).device(options.device());
  return tables_of(config, at::arange(positions, longs), positions, options);
}

RopeTables rope_tables_at(const RopeConfig& config, const at::Tensor& positions, const at::TensorOptions& options) {
  // Only `dynamic` depends on the length; asking for it would otherwise wait for the device.
  const bool dynamic = config.scaling == RopeConfig::Scaling::dynamic && positions.numel() > 0;
  return tables_of(config, positions, dynamic ? positions.max().item<std::int64_t>() + 1 : 0, options);
}

}  // namespace tessera::nn
