#include "tessera/adapt/base_start.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>

#include "matrices.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/core/error.hpp"
#include "tessera/nn/init.hpp"

namespace tessera::adapt {
namespace {

struct Svd {
  at::Tensor u, s, vh;
};

Svd exact(const at::Tensor& weight) {
  auto [u, s, vh] = at::linalg_svd(weight, /*full_matrices=*/false);
  return {u, s, vh};
}

at::Tensor orthonormal(const at::Tensor& columns) {
  return std::get<0>(at::linalg_qr(columns));
}

/// A basis of the range of `weight` from a random matrix, refined by power iterations; the decomposition inside it.
Svd randomised(const at::Tensor& weight, std::int64_t rank, std::int64_t iterations, std::uint64_t seed) {
  nn::ParamState draw;
  draw.name = "pissa";
  draw.shape = {weight.size(1), rank};
  draw.init = nn::Init::normal(1.0);
  const at::Tensor random = at::empty(draw.shape, at::kFloat);
  nn::fill_init(draw, seed, 0, random.numel(), random.data_ptr<float>());
  at::Tensor basis = orthonormal(at::matmul(weight, random));
  for (std::int64_t i = 0; i < iterations; ++i) {
    basis = orthonormal(at::matmul(weight, orthonormal(at::matmul(weight.t(), basis))));
  }
  const Svd inside = exact(at::matmul(basis.t(), weight));
  return {at::matmul(basis, inside.u), inside.s, inside.vh};
}

at::ScalarType float_type(const io::TensorInfo& tensor, const std::string& where) {
  const bool matrix = tensor.shape.size() == 2;
  if (matrix && tensor.type == io::Elem::f32) return at::kFloat;
  if (matrix && tensor.type == io::Elem::f16) return at::kHalf;
  if (matrix && tensor.type == io::Elem::bf16) return at::kBFloat16;
  throw RequestError("{}: '{}' is {} {}; an adapter begins in a matrix of F32, F16 or BF16", where, tensor.name,
                     io::name_of(tensor.type), io::shape_text(tensor.shape));
}

class LazilyStarted final : public StartedSource {
 public:
  LazilyStarted(io::SourcePtr base, BaseStart start, bool matrices) : base_(std::move(base)), start_(std::move(start)) {
    tensors_ = base_->tensors();
    for (const std::string& name : start_.layers) {
      const io::TensorInfo* weight = base_->find(name + ".weight");
      if (weight == nullptr) throw RequestError("the adapter is for a layer '{}' that the model does not have", name);
      float_type(*weight, base_->where(*weight));
      weights_.emplace(weight->name, Layer{weight, start_.config.layer(name), {}});
      if (matrices) add_matrices(name, *weight);
    }
    std::sort(tensors_.begin(), tensors_.end(), [](const auto& l, const auto& r) { return l.name < r.name; });
  }

  const std::vector<io::TensorInfo>& tensors() const override { return tensors_; }
  std::string where(const io::TensorInfo& tensor) const override {
    const auto found = matrices_.find(tensor.name);
    return base_->where(found == matrices_.end() ? tensor : *weights_.at(found->second.weight).info);
  }

  void read(const io::TensorInfo& tensor, std::int64_t begin, std::int64_t count, void* out) const override {
    const at::NoGradGuard no_grad;
    if (const auto found = matrices_.find(tensor.name); found != matrices_.end()) {
      const LowRank& part = part_of(found->second.weight);
      const at::Tensor flat = (found->second.is_a ? part.a : part.b).flatten();
      std::memcpy(out, flat.narrow(0, begin, count).const_data_ptr(), static_cast<std::size_t>(count) * sizeof(float));
    } else if (weights_.contains(tensor.name) && count > 0) {
      read_reduced(tensor.name, begin, count, out);
    } else {
      base_->read(tensor, begin, count, out);
    }
  }

  void share(comm::Communicator& control) override {
    const auto ranks = static_cast<std::size_t>(control.size());
    comm::on_every_rank(control, [&] {
      for (auto i = static_cast<std::size_t>(control.rank()); i < start_.layers.size(); i += ranks)
        part_of(start_.layers[i] + ".weight");
    });
    for (std::size_t i = 0; i < start_.layers.size(); ++i) {
      Layer& layer = weights_.at(start_.layers[i] + ".weight");
      const auto& shape = layer.info->shape;
      if (!layer.part.a.defined()) {
        layer.part = {at::empty({layer.settings.rank, shape[1]}, at::kFloat),
                      at::empty({shape[0], layer.settings.rank}, at::kFloat)};
      }
      for (const at::Tensor& matrix : {layer.part.a, layer.part.b}) {
        control.broadcast({matrix.data_ptr(), matrix.numel(), comm::DType::f32}, static_cast<int>(i % ranks));
      }
    }
  }

  /// What an adapter began in is no longer what its file has packed.
  const io::PackedTensor* packed(const io::TensorInfo& tensor) const override {
    const bool own = matrices_.contains(tensor.name) || weights_.contains(tensor.name);
    return own ? nullptr : base_->packed(tensor);
  }

 private:
  struct Layer {
    const io::TensorInfo* info;
    LoraConfig::Layer settings;
    LowRank part;  // undefined until it is asked for
  };
  struct Matrix {
    std::string weight;
    bool is_a;
  };

  void add_matrices(const std::string& name, const io::TensorInfo& weight) {
    const std::int64_t rank = start_.config.layer(name).rank;
    const std::string a = name + ".lora_A.default.weight", b = name + ".lora_B.default.weight";
    tensors_.push_back({a, io::Elem::f32, {rank, weight.shape[1]}});
    tensors_.push_back({b, io::Elem::f32, {weight.shape[0], rank}});
    matrices_.emplace(a, Matrix{weight.name, true});
    matrices_.emplace(b, Matrix{weight.name, false});
  }

  const LowRank& part_of(const std::string& weight) const {
    const std::lock_guard lock(mutex_);
    Layer& layer = weights_.at(weight);
    if (layer.part.a.defined()) return layer.part;
    const at::NoGradGuard no_grad;
    const at::Tensor whole = read_matrix(*base_, *layer.info);
    const LoraConfig& config = start_.config;
    layer.part = config.init == LoraInit::olora ? olora(whole, layer.settings.rank)
                                                : pissa(whole, layer.settings.rank, config.scaling(layer.settings),
                                                        config.pissa_iterations, start_.seed);
    return layer.part;
  }

  void read_reduced(const std::string& name, std::int64_t begin, std::int64_t count, void* out) const {
    const LowRank& part = part_of(name);
    const Layer& layer = weights_.at(name);
    const std::int64_t width = layer.info->shape[1];
    const std::int64_t first = begin / width;
    const std::int64_t rows = (begin + count - 1) / width + 1 - first;
    const at::Tensor whole = at::empty({rows, width}, float_type(*layer.info, ""));
    base_->read(*layer.info, first * width, rows * width, whole.data_ptr());
    const at::Tensor reduced = at::addmm(whole.to(at::kFloat), part.b.narrow(0, first, rows), part.a, 1.0,
                                         -start_.config.scaling(layer.settings))
                                   .to(whole.scalar_type())
                                   .contiguous();
    const auto size = io::size_of(layer.info->type);
    std::memcpy(out,
                static_cast<const std::byte*>(reduced.const_data_ptr()) +
                    static_cast<std::size_t>(begin - first * width) * size,
                static_cast<std::size_t>(count) * size);
  }

  io::SourcePtr base_;
  BaseStart start_;
  std::vector<io::TensorInfo> tensors_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, Layer> weights_;  // by the weight's name
  std::map<std::string, Matrix> matrices_;
};

bool is_matrix_of(const nn::ParamState& param, const char* letter) {
  return param.name.ends_with(std::string(".lora_") + letter + ".default.weight");
}

}  // namespace

LowRank pissa(const at::Tensor& weight, std::int64_t rank, double scaling, std::int64_t iterations,
              std::uint64_t seed) {
  const at::NoGradGuard no_grad;
  const Svd svd = iterations < 0 ? exact(weight) : randomised(weight, rank, iterations, seed);
  const at::Tensor roots = svd.s.narrow(0, 0, rank).div(scaling).sqrt();
  return {roots.unsqueeze(1).mul(svd.vh.narrow(0, 0, rank)).contiguous(),
          svd.u.narrow(1, 0, rank).mul(roots).contiguous()};
}

LowRank olora(const at::Tensor& weight, std::int64_t rank) {
  const at::NoGradGuard no_grad;
  const auto [q, r] = at::linalg_qr(weight);
  return {r.narrow(0, 0, rank).contiguous(), q.narrow(1, 0, rank).contiguous()};
}

BaseStart base_start(const Lora& lora, std::uint64_t seed) {
  BaseStart start{lora.config, {}, seed};
  for (const LoraLayer& layer : lora.layers) start.layers.push_back(layer.target->name);
  return start;
}

std::shared_ptr<StartedSource> started_source(io::SourcePtr base, BaseStart start, bool matrices) {
  return std::make_shared<LazilyStarted>(std::move(base), std::move(start), matrices);
}

at::Tensor converted(const nn::ParamState& param, const at::Tensor& value, const io::TensorSource& start) {
  if (converted_shape(param) == param.shape) return value;
  const at::NoGradGuard no_grad;
  const at::Tensor first = read_matrix(start, *start.find(param.name));
  const bool is_a = is_matrix_of(param, "A");
  return at::cat({value.to(at::kCPU, at::kFloat), is_a ? first : first.neg()}, is_a ? 0 : 1);
}

std::vector<std::int64_t> converted_shape(const nn::ParamState& param) {
  std::vector<std::int64_t> shape = param.shape;
  if (is_matrix_of(param, "A")) shape[0] *= 2;
  if (is_matrix_of(param, "B")) shape[1] *= 2;
  return shape;
}

Lora converted(Lora lora) {
  LoraConfig& config = lora.config;
  const double alphas = config.rslora ? std::sqrt(2.0) : 2.0;
  config.rank *= 2;
  config.alpha *= alphas;
  for (auto& [key, rank] : config.rank_pattern) rank *= 2;
  for (auto& [key, alpha] : config.alpha_pattern) alpha *= alphas;
  for (auto& [name, layer] : config.layers) layer = {layer.rank * 2, layer.alpha * alphas};
  config.init = LoraInit::kaiming;
  return lora;
}

}  // namespace tessera::adapt
