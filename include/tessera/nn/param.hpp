#pragma once
/// Param: a weight as a handle. Layers own handles, never tensors: under ZeRO-3 the tensor exists only while its unit
/// is gathered. A model is first built as shapes alone (ModelLayout), from which `plan` counts and the engine shards.
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace at {
class Tensor;
}

namespace tessera::nn {

struct LayerState;      // nn/layers.hpp
struct AttentionState;  // nn/prefix.hpp

/// How a weight that no file holds is filled. Value i of a tensor depends on (seed, name, i) alone.
struct Init {
  enum class Kind : std::uint8_t { zeros, ones, normal, uniform } kind = Kind::zeros;
  double a = 0;  ///< normal: standard deviation; uniform: bound, values in [-a, a)
  static Init zeros() { return {}; }
  static Init ones() { return {Kind::ones, 0}; }
  static Init normal(double std) { return {Kind::normal, std}; }
  static Init uniform(double bound) { return {Kind::uniform, bound}; }
  /// PyTorch's default for Linear and Conv weights and biases: uniform with bound 1/sqrt(fan_in).
  static Init fan_in(std::int64_t fan_in);
};

using UnitId = std::int32_t;

/// Called with consecutive blocks of a matrix's rows: rows [b, D] and the index of the first of them.
using RowsFn = std::function<void(const at::Tensor& rows, std::int64_t first)>;

/// One weight (or persistent buffer): what it is called in model files, its shape, and whether it trains.
class ParamState {
 public:
  std::string name;
  std::vector<std::int64_t> shape;
  Init init;
  UnitId unit = -1;
  bool trainable = false;
  bool buffer = false;  ///< persistent, never trained, not counted as a parameter (SAM's Gaussian matrix)
  std::int64_t numel() const noexcept;

  /// The full tensor. Throws RunError naming the parameter when its unit is not gathered.
  const at::Tensor& value() const;
  /// Set by the engine (or by tests) when the unit is materialised; an undefined tensor when it is not.
  void bind(at::Tensor value);
  void unbind();
  bool bound() const noexcept;

  /// All rows of a matrix, block by block, each valid inside its call of `fn` alone: one block where the weight is
  /// whole on this rank. Collective where it is not.
  void visit_rows(const RowsFn& fn) const;
  /// In the place of bind(), where the weight is never whole: how its rows are visited. unbind() ends it.
  void bind_rows(std::function<void(const RowsFn&)> visit);
  bool by_rows() const noexcept;  ///< value() is not to be had, visit_rows() is
  ParamState();
  ~ParamState();
  ParamState(const ParamState&) = delete;
  ParamState& operator=(const ParamState&) = delete;

 private:
  struct Slot;
  std::unique_ptr<Slot> slot_;
};

/// Shared handle; two layers that hold one Param have tied weights.
using Param = std::shared_ptr<ParamState>;

struct Unit {
  std::string name;  ///< e.g. "model.layers.3"
  std::vector<Param> params;
  /// Small and needed all through a step (adapters): gathered once a step and reduced once, in one fused bucket,
  /// instead of around each call. Its parameters are bound between Engine::begin_step and Engine::end_step.
  bool fused = false;
  /// Its function uses parameters of a fused unit (an adapter sits on one of its layers), so it needs a graph even when
  /// nothing of its own trains.
  bool adapted = false;
  /// Part of the model's files and count, but forward never calls it (CLIP's layers above the selected one).
  bool idle = false;
  /// Keeps little for backward, so that recomputing it would cost time and save nothing: an embedding, a head that
  /// saves its input alone.
  bool light = false;
  /// False: its backward never looks at its weights (an embedding that is not tied), so they are not gathered for it.
  bool backward_reads_weights = true;
  /// Units whose weights this unit's function uses as well (a head tied to the embedding): the runner gathers them with
  /// it, and their gradients from here and from there add up.
  std::vector<UnitId> borrows{};
  /// A matrix of its own that its function, and those of the units that borrow from it, read through visit_rows alone
  /// while it is frozen: the engine need not hold it whole. Null: none.
  Param row_matrix{};
};

/// All units of a model in the order in which forward uses them.
class ModelLayout {
 public:
  UnitId add_unit(std::string name, bool fused = false);
  /// Names are unique over the layout; a second one throws RunError.
  Param add(UnitId unit, std::string name, std::vector<std::int64_t> shape, Init init, bool buffer = false);

  void mark_idle(UnitId unit) { units_.at(static_cast<std::size_t>(unit)).idle = true; }
  void mark_adapted(UnitId unit) { units_.at(static_cast<std::size_t>(unit)).adapted = true; }
  void mark_light(UnitId unit, bool backward_reads_weights = true) {
    auto& u = units_.at(static_cast<std::size_t>(unit));
    u.light = true;
    u.backward_reads_weights = backward_reads_weights;
  }
  void mark_row_matrix(UnitId unit, Param matrix) {
    units_.at(static_cast<std::size_t>(unit)).row_matrix = std::move(matrix);
  }
  void borrow(UnitId user, UnitId owner) { units_.at(static_cast<std::size_t>(user)).borrows.push_back(owner); }

  const std::vector<Unit>& units() const noexcept { return units_; }
  const Unit& unit(UnitId id) const { return units_.at(static_cast<std::size_t>(id)); }
  Param find(std::string_view name) const;  ///< nullptr when absent
  std::vector<Param> params() const;        ///< in layout order

  /// Every linear layer, embedding and convolution built on this layout, in building order: where adapters look for
  /// their targets.
  const std::vector<std::shared_ptr<LayerState>>& layers() const noexcept { return layers_; }
  void note_layer(std::shared_ptr<LayerState> layer) { layers_.push_back(std::move(layer)); }
  /// Every causal attention layer of the language model, in order: where a prefix is put.
  const std::vector<std::shared_ptr<AttentionState>>& attentions() const noexcept { return attentions_; }
  void note_attention(std::shared_ptr<AttentionState> layer) { attentions_.push_back(std::move(layer)); }

  std::int64_t total_elements() const noexcept;      ///< parameters, buffers not counted
  std::int64_t trainable_elements() const noexcept;  ///< of these, trained

 private:
  std::vector<Unit> units_;
  std::vector<std::shared_ptr<LayerState>> layers_;
  std::vector<std::shared_ptr<AttentionState>> attentions_;
  std::unordered_map<std::string, Param> by_name_;
};

/// Scopes names while a model is built: Scope(layout, unit, "model.layers.3").child("self_attn").param("q_proj.weight",
/// …)
class Scope {
 public:
  Scope(ModelLayout& layout, UnitId unit, std::string prefix)
      : layout_(&layout), unit_(unit), prefix_(std::move(prefix)) {}
  Scope child(std::string_view name) const { return {*layout_, unit_, join(name)}; }
  Param param(std::string_view name, std::vector<std::int64_t> shape, Init init) const {
    return layout_->add(unit_, join(name), std::move(shape), init);
  }
  Param buffer(std::string_view name, std::vector<std::int64_t> shape, Init init) const {
    return layout_->add(unit_, join(name), std::move(shape), init, true);
  }
  /// An empty name is the scope itself.
  std::string join(std::string_view name) const {
    if (name.empty()) return prefix_;
    return prefix_.empty() ? std::string(name) : prefix_ + "." + std::string(name);
  }
  ModelLayout& layout() const noexcept { return *layout_; }
  UnitId unit() const noexcept { return unit_; }

 private:
  ModelLayout* layout_;
  UnitId unit_;
  std::string prefix_;
};

}  // namespace tessera::nn
