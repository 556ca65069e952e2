#include "tessera/nn/param.hpp"

#include <ATen/core/Tensor.h>

#include <cmath>

#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"
#include "tessera/nn/init.hpp"

namespace tessera::nn {

Init Init::fan_in(std::int64_t fan_in) {
  return uniform(1.0 / std::sqrt(static_cast<double>(fan_in)));
}

struct ParamState::Slot {
  at::Tensor value;
  std::function<void(const RowsFn&)> visit;
};

ParamState::ParamState() : slot_(std::make_unique<Slot>()) {}
ParamState::~ParamState() = default;

std::int64_t ParamState::numel() const noexcept {
  std::int64_t n = 1;
  for (const std::int64_t extent : shape) n *= extent;
  return n;
}

const at::Tensor& ParamState::value() const {
  if (slot_->visit) throw RunError("nn: weight '{}' is read by rows; use ParamState::visit_rows", name);
  if (!slot_->value.defined()) {
    throw RunError("nn: weight '{}' is used while its unit is not gathered; call it inside UnitRunner::run", name);
  }
  return slot_->value;
}

void ParamState::bind(at::Tensor value) {
  slot_->value = std::move(value);
}
void ParamState::unbind() {
  slot_->value.reset();
  slot_->visit = nullptr;
}
void ParamState::visit_rows(const RowsFn& fn) const {
  if (slot_->visit) return slot_->visit(fn);
  fn(value(), 0);
}
void ParamState::bind_rows(std::function<void(const RowsFn&)> visit) {
  slot_->visit = std::move(visit);
}
bool ParamState::by_rows() const noexcept {
  return slot_->visit != nullptr;
}
bool ParamState::bound() const noexcept {
  return slot_->value.defined();
}

UnitId ModelLayout::add_unit(std::string name, bool fused) {
  Unit unit;
  unit.name = std::move(name);
  unit.fused = fused;
  units_.push_back(std::move(unit));
  return static_cast<UnitId>(units_.size()) - 1;
}

Param ModelLayout::add(UnitId unit, std::string name, std::vector<std::int64_t> shape, Init init, bool buffer) {
  std::int64_t numel = 1;
  for (const std::int64_t extent : shape) {
    if (__builtin_mul_overflow(numel, extent, &numel) || numel > INT64_MAX / 8)
      throw RequestError("the weight '{}' would have more elements than can be counted", name);
  }
  auto param = std::make_shared<ParamState>();
  param->name = std::move(name);
  param->shape = std::move(shape);
  param->init = init;
  param->unit = unit;
  param->buffer = buffer;
  if (!by_name_.emplace(param->name, param).second) {
    throw RunError("nn: the model names two weights '{}'", param->name);
  }
  units_.at(static_cast<std::size_t>(unit)).params.push_back(param);
  return param;
}

Param ModelLayout::find(std::string_view name) const {
  const auto found = by_name_.find(std::string(name));
  return found == by_name_.end() ? nullptr : found->second;
}

std::vector<Param> ModelLayout::params() const {
  std::vector<Param> all;
  all.reserve(by_name_.size());
  for (const Unit& unit : units_) all.insert(all.end(), unit.params.begin(), unit.params.end());
  return all;
}

std::int64_t ModelLayout::total_elements() const noexcept {
  std::int64_t n = 0;
  for (const Unit& unit : units_) {
    for (const Param& param : unit.params) n += param->buffer ? 0 : param->numel();
  }
  return n;
}

std::int64_t ModelLayout::trainable_elements() const noexcept {
  std::int64_t n = 0;
  for (const Unit& unit : units_) {
    for (const Param& param : unit.params) n += param->trainable && !param->buffer ? param->numel() : 0;
  }
  return n;
}

void fill_init(const ParamState& param, std::uint64_t seed, std::int64_t begin, std::int64_t count, float* out) {
  const CounterStream stream(mix_keys(seed, hash_name(param.name)));
  const Init init = param.init;
  const auto scale = static_cast<float>(init.a);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto element = static_cast<std::uint64_t>(begin + i);
    switch (init.kind) {
      case Init::Kind::zeros:
        out[i] = 0.0F;
        break;
      case Init::Kind::ones:
        out[i] = 1.0F;
        break;
      case Init::Kind::normal:
        out[i] = scale * stream.normal(element);
        break;
      case Init::Kind::uniform:
        out[i] = scale * (2.0F * stream.uniform(element) - 1.0F);
        break;
    }
  }
}

}  // namespace tessera::nn
