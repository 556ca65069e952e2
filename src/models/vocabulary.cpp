#include "tessera/models/vocabulary.hpp"

#include <algorithm>
#include <map>
#include <mutex>

#include "tessera/core/error.hpp"
#include "tessera/nn/init.hpp"

namespace tessera::models {
namespace {

constexpr std::int64_t kBlock = std::int64_t{1} << 20;  ///< elements read at once for a mean

/// A tensor of the source with rows behind its own.
class GrownTensor {
 public:
  GrownTensor(const io::TensorSource& source, const io::TensorInfo& old, const VocabularyGrowth& growth)
      : source_(source), old_(old), fill_(growth.fill), seed_(growth.seed) {
    drawn_.name = old.name;
    drawn_.shape = {growth.rows, old.shape[1]};
    drawn_.init = nn::Init::normal(growth.std);
  }

  io::TensorInfo info() const { return {drawn_.name, io::Elem::f32, drawn_.shape}; }

  void read(std::int64_t begin, std::int64_t count, float* out) const {
    if (begin < 0 || count < 0 || begin > drawn_.numel() - count) {
      throw RequestError("{}: elements {} to {} of '{}' do not exist", source_.where(old_), begin, begin + count,
                         old_.name);
    }
    const std::int64_t kept = std::clamp<std::int64_t>(old_.numel() - begin, 0, count);
    if (kept > 0) source_.read_f32(old_, begin, kept, out);
    if (kept == count) return;
    if (fill_ == NewRows::normal) {
      nn::fill_init(drawn_, seed_, begin + kept, count - kept, out + kept);
      return;
    }
    const std::vector<float>& mean = mean_row();
    for (std::int64_t i = kept; i < count; ++i) out[i] = mean[static_cast<std::size_t>((begin + i) % old_.shape[1])];
  }

  void will_read(std::int64_t begin, std::int64_t count) const {
    const std::int64_t kept = std::clamp<std::int64_t>(old_.numel() - begin, 0, count);
    if (kept > 0) source_.will_read(old_, begin, kept);
  }

 private:
  const std::vector<float>& mean_row() const {
    std::call_once(averaged_, [this] { mean_ = average(); });
    return mean_;
  }

  std::vector<float> average() const {
    const std::int64_t rows = old_.shape[0];
    const std::int64_t width = old_.shape[1];
    std::vector<double> sums(static_cast<std::size_t>(width));
    const std::int64_t rows_at_once = std::clamp<std::int64_t>(kBlock / width, 1, rows);
    std::vector<float> block(static_cast<std::size_t>(rows_at_once * width));
    for (std::int64_t row = 0; row < rows; row += rows_at_once) {
      const std::int64_t here = std::min(rows_at_once, rows - row);
      source_.read_f32(old_, row * width, here * width, block.data());
      const float* value = block.data();
      for (std::int64_t r = 0; r < here; ++r) {
        for (double& sum : sums) sum += static_cast<double>(*value++);
      }
    }
    std::vector<float> mean;
    mean.reserve(sums.size());
    for (const double sum : sums) mean.push_back(static_cast<float>(sum / static_cast<double>(rows)));
    return mean;
  }

  const io::TensorSource& source_;
  const io::TensorInfo& old_;
  NewRows fill_;
  std::uint64_t seed_;
  nn::ParamState drawn_;  ///< name and Init of the rows that are drawn
  mutable std::once_flag averaged_;
  mutable std::vector<float> mean_;
};

class GrownSource final : public io::TensorSource {
 public:
  GrownSource(io::SourcePtr source, const VocabularyGrowth& growth)
      : source_(std::move(source)), tensors_(source_->tensors()) {
    for (io::TensorInfo& tensor : tensors_) {
      const bool named = std::find(growth.tensors.begin(), growth.tensors.end(), tensor.name) != growth.tensors.end();
      if (!named || tensor.shape.size() != 2 || tensor.shape[0] >= growth.rows || tensor.numel() == 0) continue;
      tensor = grown_.try_emplace(tensor.name, *source_, *source_->find(tensor.name), growth).first->second.info();
    }
  }

  const std::vector<io::TensorInfo>& tensors() const override { return tensors_; }
  std::string where(const io::TensorInfo& tensor) const override { return source_->where(original(tensor)); }

  void read(const io::TensorInfo& tensor, std::int64_t begin, std::int64_t count, void* out) const override {
    const auto grown = grown_.find(tensor.name);
    if (grown != grown_.end()) return grown->second.read(begin, count, static_cast<float*>(out));
    source_->read(original(tensor), begin, count, out);
  }

  void will_read(const io::TensorInfo& tensor, std::int64_t begin, std::int64_t count) const override {
    const auto grown = grown_.find(tensor.name);
    if (grown != grown_.end()) return grown->second.will_read(begin, count);
    source_->will_read(original(tensor), begin, count);
  }

  const io::PackedTensor* packed(const io::TensorInfo& tensor) const override {
    return grown_.contains(tensor.name) ? nullptr : source_->packed(original(tensor));
  }

 private:
  const io::TensorInfo& original(const io::TensorInfo& tensor) const {
    const io::TensorInfo* own = source_->find(tensor.name);
    if (own == nullptr) throw RequestError("no tensor '{}' in these weights", tensor.name);
    return *own;
  }

  io::SourcePtr source_;
  std::vector<io::TensorInfo> tensors_;
  std::map<std::string, GrownTensor, std::less<>> grown_;
};

}  // namespace

NewRows new_rows_from_name(std::string_view name) {
  if (name == "mean") return NewRows::mean;
  if (name == "normal") return NewRows::normal;
  throw RequestError("rows of new tokens cannot be '{}'; known are mean, normal", name);
}

VocabularyGrowth growth_to(const nn::ModelLayout& layout, NewRows fill, std::uint64_t seed) {
  VocabularyGrowth growth;
  growth.fill = fill;
  growth.seed = seed;
  for (const char* name : {"model.embed_tokens.weight", "transformer.wte.weight", "lm_head.weight"}) {
    const nn::Param param = layout.find(name);
    if (!param) continue;
    growth.tensors.emplace_back(name);
    growth.rows = param->shape.at(0);
    growth.std = param->init.a;
  }
  return growth;
}

io::SourcePtr grow_vocabulary(io::SourcePtr source, const VocabularyGrowth& growth) {
  return std::make_shared<GrownSource>(std::move(source), growth);
}

}  // namespace tessera::models
