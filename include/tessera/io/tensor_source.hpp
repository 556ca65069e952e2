#pragma once
/// TensorSource: named tensors in files, read by element ranges, so that each byte of a model is read by the one rank
/// whose slice holds it and nobody holds the model.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/core/quantize.hpp"

namespace tessera::io {

/// Element types of weights in files (safetensors' names in comments).
enum class Elem : std::uint8_t { f32 /*F32*/, f16 /*F16*/, bf16 /*BF16*/, f64, i64, i32, i16, i8, u8, boolean };
std::size_t size_of(Elem type) noexcept;
std::string_view name_of(Elem type) noexcept;  ///< safetensors' spelling: "F32", …
std::optional<Elem> elem_named(std::string_view name) noexcept;

/// Elements of a shape; nothing when a size is negative or the product (or its bytes at 8 each) leaves 63 bits.
std::optional<std::int64_t> checked_numel(const std::vector<std::int64_t>& shape) noexcept;
std::string shape_text(const std::vector<std::int64_t>& shape);  ///< "[2, 3]"

/// `count` elements of `type` at `from`, converted to fp32 (f16 and bf16 exactly; f64 and wide integers rounded).
void convert_to_f32(Elem type, const void* from, std::int64_t count, float* out);

struct TensorInfo {
  std::string name;  ///< as in the file
  Elem type = Elem::f32;
  std::vector<std::int64_t> shape;
  std::int64_t numel() const noexcept;
};

class TensorSource;

/// The parts of a matrix that its file holds quantised, as bitsandbytes writes it (io/quantized_source.hpp). The
/// TensorInfo of such a matrix is F32 with the matrix' own shape, and read() gives the values it stands for.
struct PackedTensor {
  QuantKind kind = QuantKind::none;
  const TensorSource* source = nullptr;  ///< of the parts, under the file's names
  const TensorInfo* codes = nullptr;     ///< nf4, fp4: bytes, two values each; int8: I8, the matrix' shape
  const TensorInfo* absmax = nullptr;    ///< F32 a block, or U8 with double quantisation; int8: F32 a row
  const TensorInfo* absmax2 = nullptr;   ///< double quantisation: F32 a block of absmax
  float mean = 0;                        ///< double quantisation: of the tensor's absmax
  std::optional<double> threshold{};     ///< int8: of outliers in activations, where a config.json beside has it
  bool double_quant() const noexcept { return absmax2 != nullptr; }
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// All tensors, sorted by name, each name once.
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  /// nullptr when there is none of that name.
  const TensorInfo* find(std::string_view name) const;
  /// Elements [begin, begin+count) in row-major order, as stored. `out` has count * size_of(type) bytes.
  /// Throws: RequestError naming file and tensor when the range or the file is not whole.
  virtual void read(const TensorInfo& tensor, std::int64_t begin, std::int64_t count, void* out) const = 0;
  /// The same, converted to fp32 (exact for f16, bf16; rounded for f64).
  void read_f32(const TensorInfo& tensor, std::int64_t begin, std::int64_t count, float* out) const;
  /// A hint that this range will soon be read: where files allow it, the disk starts now. Never fails.
  virtual void will_read(const TensorInfo& /*tensor*/, std::int64_t /*begin*/, std::int64_t /*count*/) const {}
  /// How the file holds a quantised matrix; nullptr for what it holds as values.
  virtual const PackedTensor* packed(const TensorInfo& /*tensor*/) const { return nullptr; }
  /// The file that holds the tensor, for messages.
  virtual std::string where(const TensorInfo& tensor) const = 0;
};

}  // namespace tessera::io
