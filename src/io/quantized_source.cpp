#include "tessera/io/quantized_source.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"

namespace tessera::io {

namespace {

constexpr std::string_view kState = ".quant_state.bitsandbytes__";
constexpr std::string_view kScb = ".SCB";

[[noreturn]] void refuse(const TensorSource& source, const TensorInfo& info, const std::string& problem) {
  throw RequestError("'{}': the quantised '{}' {}", source.where(info), info.name, problem);
}

// Finds and checks the parts of one file's matrices.
class Unpacker {
 public:
  Unpacker(const TensorSource& source, std::optional<double> threshold) : source_(source), threshold_(threshold) {}

  struct Matrix {
    std::vector<std::int64_t> shape;
    PackedTensor packed;
  };
  std::map<std::string, Matrix> matrices;
  std::set<std::string, std::less<>> parts;  // names that are no tensors of their own

  void find_all() {
    for (const auto& info : source_.tensors()) {
      const auto state = info.name.find(kState);
      if (state != std::string::npos) four_bits(info, info.name.substr(0, state));
      if (info.name.ends_with(kScb)) eight_bits(info, info.name.substr(0, info.name.size() - kScb.size()));
    }
  }

 private:
  const TensorInfo& part(const TensorInfo& whole, const std::string& name) {
    const auto* found = source_.find(name);
    if (found == nullptr) refuse(source_, whole, "lacks its part '" + name + "'");
    parts.insert(name);
    return *found;
  }

  void check_table(const TensorInfo& whole, const std::string& name, std::span<const float> expected) {
    const auto& info = part(whole, name);
    std::vector<float> values(expected.size());
    if (info.numel() != static_cast<std::int64_t>(values.size())) refuse(source_, whole, "has a codebook of its own");
    source_.read_f32(info, 0, info.numel(), values.data());
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!(std::abs(values[i] - expected[i]) < 1e-6F)) refuse(source_, whole, "has a codebook of its own");
    }
  }

  JsonView state_of(const TensorInfo& info) {
    constexpr std::int64_t kMost = 1 << 16;
    if (info.type != Elem::u8 || info.numel() > kMost) refuse(source_, info, "is no text");
    std::string text(static_cast<std::size_t>(info.numel()), '\0');
    source_.read(info, 0, info.numel(), text.data());
    return parse_json(text, source_.where(info) + ": " + info.name);
  }

  void four_bits(const TensorInfo& info, const std::string& name) {
    const JsonView state = state_of(info);
    parts.insert(info.name);
    const auto& codes = part(info, name);
    Matrix m;
    m.packed = {quant_kind(state.text("quant_type")), &source_, &codes, &part(codes, name + ".absmax"), nullptr, 0};
    if (m.packed.kind != QuantKind::nf4 && m.packed.kind != QuantKind::fp4)
      refuse(source_, codes, "is not of four bits");
    if (state.integer("blocksize") != kQuantBlock) {
      refuse(source_, codes, "has blocks of " + std::to_string(state.integer("blocksize")) + ", 64 are supported");
    }
    m.shape = state.at("shape").integers();
    const auto numel = checked_numel(m.shape);
    if (!numel || *numel == 0 || codes.numel() * static_cast<std::int64_t>(size_of(codes.type)) != (*numel + 1) / 2) {
      refuse(source_, codes, "has not the bytes of its shape " + shape_text(m.shape));
    }
    check_table(codes, name + ".quant_map", codebook(m.packed.kind));
    const auto blocks = quant_blocks(*numel);
    const bool nested = state.has("nested_blocksize");
    if (m.packed.absmax->numel() != blocks || m.packed.absmax->type != (nested ? Elem::u8 : Elem::f32)) {
      refuse(source_, codes, "has not one absmax for each block");
    }
    if (nested) {
      m.packed.absmax2 = &part(codes, name + ".nested_absmax");
      m.packed.mean = static_cast<float>(state.real("nested_offset"));
      if (state.integer("nested_blocksize") != kNestedBlock || m.packed.absmax2->numel() != nested_blocks(blocks)) {
        refuse(source_, codes, "has not one absmax for each 256 blocks");
      }
      check_table(codes, name + ".nested_quant_map", dynamic_code());
    }
    matrices.emplace(name, std::move(m));
  }

  void eight_bits(const TensorInfo& info, const std::string& module) {
    const auto* codes = source_.find(module + ".weight");
    if (codes == nullptr || codes->type != Elem::i8) return;  // something else's name
    parts.insert(info.name);
    parts.insert(codes->name);
    if (const auto* format = source_.find(module + ".weight_format")) {
      std::uint8_t value = 0;
      if (format->numel() != 1 || format->type != Elem::u8) refuse(source_, *format, "is not one byte");
      source_.read(*format, 0, 1, &value);
      if (value != 0) refuse(source_, *codes, "lies in a layout of columns; save it anew with a current bitsandbytes");
      parts.insert(format->name);
    }
    if (codes->shape.size() != 2 || info.numel() != codes->shape[0]) {
      refuse(source_, *codes, "has not one scale for each row");
    }
    matrices.emplace(codes->name,
                     Matrix{codes->shape, {QuantKind::int8, &source_, codes, &info, nullptr, 0, threshold_}});
  }

  const TensorSource& source_;
  std::optional<double> threshold_;
};

class QuantizedSource final : public TensorSource {
 public:
  QuantizedSource(SourcePtr files, Unpacker found) : files_(std::move(files)) {
    for (const auto& info : files_->tensors()) {
      if (!found.parts.contains(info.name)) tensors_.push_back(info);
    }
    for (auto& [name, matrix] : found.matrices) {
      tensors_.push_back({name, Elem::f32, matrix.shape});
      packed_.emplace(name, matrix.packed);
    }
    std::sort(tensors_.begin(), tensors_.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  }

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const PackedTensor* packed(const TensorInfo& tensor) const override {
    const auto found = packed_.find(tensor.name);
    return found == packed_.end() ? nullptr : &found->second;
  }
  std::string where(const TensorInfo& tensor) const override { return files_->where(original(tensor)); }
  void will_read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count) const override {
    if (packed(tensor) == nullptr) files_->will_read(original(tensor), begin, count);
  }
  void read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count, void* out) const override {
    const auto* parts = packed(tensor);
    if (parts == nullptr) return files_->read(original(tensor), begin, count, out);
    const auto* own = find(tensor.name);
    if (begin < 0 || count < 0 || begin > own->numel() || count > own->numel() - begin) {
      refuse(*files_, original(tensor), "was asked for elements that it does not have");
    }
    if (count == 0) return;
    auto* values = static_cast<float*>(out);
    parts->kind == QuantKind::int8 ? read_rows(*parts, own->shape[1], begin, count, values)
                                   : read_blocks(*parts, own->numel(), begin, count, values);
  }

 private:
  // Under a name of the files, which those of our tensors are.
  const TensorInfo& original(const TensorInfo& tensor) const {
    const auto* found = files_->find(tensor.name);
    if (found == nullptr) throw RequestError("no tensor '{}' in these weights", tensor.name);
    return *found;
  }

  static void read_rows(const PackedTensor& parts, std::int64_t columns, std::int64_t begin, std::int64_t count,
                        float* out) {
    const std::int64_t first = begin / columns, rows = (begin + count - 1) / columns - first + 1;
    std::vector<float> scales(static_cast<std::size_t>(rows));
    std::vector<std::int8_t> codes(static_cast<std::size_t>(count));
    parts.source->read_f32(*parts.absmax, first, rows, scales.data());
    parts.source->read(*parts.codes, begin, count, codes.data());
    for (std::int64_t done = 0; done < count;) {
      const std::int64_t at = begin + done, part = std::min(count - done, columns - at % columns);
      dequantize_row(codes.data() + done, part, scales[static_cast<std::size_t>(at / columns - first)], out + done);
      done += part;
    }
  }

  static void read_blocks(const PackedTensor& parts, std::int64_t numel, std::int64_t begin, std::int64_t count,
                          float* out) {
    const std::int64_t first = begin / kQuantBlock, blocks = quant_blocks(begin + count) - first;
    const std::int64_t from = first * kQuantBlock, whole = std::min(blocks * kQuantBlock, numel - from);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>((whole + 1) / 2));
    std::vector<float> scales(static_cast<std::size_t>(blocks)), values(static_cast<std::size_t>(whole));
    read_codes(parts, from / 2, (whole + 1) / 2, codes.data());
    if (parts.double_quant()) {
      std::vector<std::uint8_t> bytes(static_cast<std::size_t>(blocks));
      std::vector<float> absmax2(static_cast<std::size_t>(parts.absmax2->numel()));
      parts.source->read(*parts.absmax, first, blocks, bytes.data());
      parts.source->read_f32(*parts.absmax2, 0, parts.absmax2->numel(), absmax2.data());
      dequantize_scales(bytes.data(), absmax2.data(), parts.mean, first, blocks, scales.data());
    } else {
      parts.source->read_f32(*parts.absmax, first, blocks, scales.data());
    }
    dequantize_blocks(parts.kind, codes.data(), scales.data(), whole, values.data());
    std::copy_n(values.begin() + (begin - from), count, out);
  }

  SourcePtr files_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, PackedTensor, std::less<>> packed_;
};

}  // namespace

SourcePtr unpack_quantized(SourcePtr files, std::optional<double> threshold) {
  Unpacker found(*files, threshold);
  found.find_all();
  if (found.matrices.empty()) return files;
  return std::make_shared<QuantizedSource>(std::move(files), std::move(found));
}

std::optional<double> outlier_threshold(const std::filesystem::path& folder) {
  constexpr const char* kKey = "llm_int8_threshold";
  const auto path = folder / "config.json";
  if (!std::filesystem::exists(path)) return std::nullopt;
  const JsonView config = read_json(path);
  if (!config.is_object() || !config.has("quantization_config")) return std::nullopt;
  const JsonView settings = config.at("quantization_config");
  if (!settings.has(kKey)) return std::nullopt;
  const double value = settings.real(kKey);
  if (!(value >= 0)) throw RequestError("{}: a threshold of {} is below 0", settings.at(kKey).where(), value);
  return value;
}

void drop_quantization(nlohmann::json& config) {
  if (!config.is_object()) return;
  const auto found = config.find("quantization_config");
  if (found == config.end()) return;
  // Older files do not name the method; bitsandbytes was the first.
  if (!found->is_object() || found->value("quant_method", "bitsandbytes") == "bitsandbytes") config.erase(found);
}

void read_codes(const PackedTensor& packed, std::int64_t begin, std::int64_t count, std::uint8_t* out) {
  const auto size = static_cast<std::int64_t>(size_of(packed.codes->type));
  if (size == 1) return packed.source->read(*packed.codes, begin, count, out);
  const std::int64_t first = begin / size, last = (begin + count + size - 1) / size;
  std::vector<std::uint8_t> wide(static_cast<std::size_t>((last - first) * size));
  packed.source->read(*packed.codes, first, last - first, wide.data());
  std::memcpy(out, wide.data() + (begin - first * size), static_cast<std::size_t>(count));
}

}  // namespace tessera::io
