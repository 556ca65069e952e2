#include "tessera/shard/moments8.hpp"

#include <ATen/ops/bucketize.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linspace.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "shard/pieces_in_cache.hpp"

namespace tessera::shard {

namespace {

constexpr int kCodes = 256;
constexpr int kDecades = 7;
// Weights of nn.Embedding in the models here, by the end of their names.
constexpr const char* kTables[] = {"embed_tokens.weight", "wte.weight", "position_embedding.weight"};

// A decade of n values has the midpoints of n equal parts of [0.1, 1]; each lower decade has half as many.
std::vector<float> make_values(DynamicCode code) {
  const bool with_sign = code == DynamicCode::with_sign;
  std::vector<float> out{0.0F, 1.0F};
  for (int i = 0; i < kDecades; ++i) {
    const std::int64_t parts = std::int64_t{1} << (with_sign ? i : i + 1);
    const at::Tensor ends = at::linspace(0.1, 1.0, parts + 1, at::kFloat);
    const at::Tensor means = ends.narrow(0, 0, parts).add(ends.narrow(0, 1, parts)).div(2.0);
    const at::Tensor decade = means.mul(std::pow(10.0, i + 1 - kDecades)).contiguous();
    for (std::int64_t k = 0; k < parts; ++k) {
      const float value = decade.const_data_ptr<float>()[k];
      out.push_back(value);
      if (with_sign) out.push_back(-value);
    }
  }
  std::sort(out.begin(), out.end());
  return out;
}

// Finds the nearest code without a search or a branch: a bucket is a sign, an exponent and nine bits of the mantissa,
// narrower than the gap between two codes, so that the lower code of its end nearer to zero or the next one is the
// answer.
class CodeTable {
 public:
  explicit CodeTable(DynamicCode code) {
    const auto values = make_values(code);
    std::copy(values.begin(), values.end(), values_.begin());
    for (std::size_t i = 0; i + 1 < values_.size(); ++i) last_[i] = last_of(values_[i], values_[i + 1]);
    last_.back() = std::numeric_limits<float>::infinity();
    for (std::uint32_t b = 0; b < kBuckets; ++b) {
      const float magnitude = b == 0 ? 0.0F : std::bit_cast<float>(kLowest + ((b - 1) << kShift));
      lower_[b] = static_cast<std::uint8_t>(search(magnitude));
      lower_[kBuckets + b] = static_cast<std::uint8_t>(std::max(search(-magnitude) - 1, 0));
    }
  }
  const std::array<float, kCodes>& values() const noexcept { return values_; }

  std::uint8_t nearest(float x) const noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t magnitude = std::max(bits & 0x7fffffffU, kBelow) - kBelow;
    const std::uint32_t bucket = std::min(magnitude >> kShift, kBuckets - 1) + (bits >> 31) * kBuckets;
    const unsigned lower = lower_[bucket];
    return static_cast<std::uint8_t>(lower + static_cast<unsigned>(x > last_[lower]));
  }

 private:
  // The largest value that is not nearer to `high` than to `low`, as fp32 distances have it.
  static float last_of(float low, float high) {
    float x = (low + high) / 2;
    const auto is_high = [&](float v) { return std::abs(v - high) < std::abs(v - low); };
    while (is_high(x)) x = std::nextafter(x, low);
    while (!is_high(std::nextafter(x, high))) x = std::nextafter(x, high);
    return x;
  }
  int search(float x) const noexcept {
    const auto first_not_below = std::find_if(last_.begin(), last_.end(), [x](float last) { return x <= last; });
    return static_cast<int>(first_not_below - last_.begin());
  }

  static constexpr int kShift = 14;
  static constexpr std::uint32_t kLowest = 103U << 23;  // 2^-24: what is smaller is nearest to zero, in bucket 0
  static constexpr std::uint32_t kBelow = kLowest - (1U << kShift);
  static constexpr std::uint32_t kBuckets = (24U << (23 - kShift)) + 2;
  std::array<float, kCodes> values_{}, last_{};
  std::array<std::uint8_t, 2 * kBuckets> lower_{};
};

const CodeTable& table_of(DynamicCode code) {
  static const CodeTable with_sign(DynamicCode::with_sign), without_sign(DynamicCode::without_sign);
  return code == DynamicCode::with_sign ? with_sign : without_sign;
}

std::int64_t blocks_of(std::int64_t n) {
  return (n + kMomentBlock - 1) / kMomentBlock;
}

void encode_block(const CodeTable& table, const float* values, std::int64_t n, std::uint8_t* codes, float* scale) {
  float largest = 0;
  for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(values[i]));
  *scale = largest;
  if (largest == 0) {
    std::fill_n(codes, n, std::uint8_t{0});
    return;
  }
  const float inverse = 1.0F / largest;
  for (std::int64_t i = 0; i < n; ++i) codes[i] = table.nearest(std::clamp(values[i] * inverse, -1.0F, 1.0F));
}

void encode_on_host(const at::Tensor& values, DynamicCode code, const CodedMoment& out) {
  const auto& table = table_of(code);
  const auto* from = values.const_data_ptr<float>();
  auto* codes = out.codes.mutable_data_ptr<std::uint8_t>();
  auto* scales = out.scales.mutable_data_ptr<float>();
  for (std::int64_t begin = 0; begin < values.numel(); begin += kMomentBlock) {
    const auto count = std::min(kMomentBlock, values.numel() - begin);
    encode_block(table, from + begin, count, codes + begin, scales + begin / kMomentBlock);
  }
}

at::Tensor decode_on_host(const CodedMoment& moment, DynamicCode code) {
  const auto& values = table_of(code).values();
  at::Tensor out = at::empty({moment.codes.numel()}, moment.scales.options());
  auto* to = out.mutable_data_ptr<float>();
  const auto* codes = moment.codes.const_data_ptr<std::uint8_t>();
  const auto* scales = moment.scales.const_data_ptr<float>();
  for (std::int64_t i = 0; i < out.numel(); ++i) to[i] = values[codes[i]] * scales[i / kMomentBlock];
  return out;
}

// [n] to [blocks, kMomentBlock], filled up with zeros.
at::Tensor in_blocks(const at::Tensor& flat) {
  const auto blocks = blocks_of(flat.numel());
  return at::constant_pad_nd(flat, {0, blocks * kMomentBlock - flat.numel()}).view({blocks, kMomentBlock});
}

// In the order and with the roundings of bitsandbytes' portable update.
void update(const AdamWStep& s, const at::Tensor& master, const at::Tensor& grad, const CodedMoment& first,
            const CodedMoment& second) {
  at::Tensor m = decode(first, DynamicCode::with_sign);
  at::Tensor v = decode(second, DynamicCode::without_sign);
  const at::Tensor g = grad.mul(s.grad_scale);
  m.mul_(s.beta1).add_(g, 1.0 - s.beta1);
  v.mul_(s.beta2).addcmul_(g, g, 1.0 - s.beta2);
  const double correction1 = 1.0 - std::pow(s.beta1, static_cast<double>(s.step));
  const double correction2 = std::sqrt(1.0 - std::pow(s.beta2, static_cast<double>(s.step)));
  const at::Tensor divisor = v.sqrt().div_(correction2).add_(s.eps);
  if (s.weight_decay > 0) master.mul_(1.0 - s.lr * s.weight_decay);
  master.addcdiv_(m, divisor, -s.lr / correction1);
  encode(m, DynamicCode::with_sign, first);
  encode(v, DynamicCode::without_sign, second);
}

CodedMoment part(const CodedMoment& moment, std::int64_t begin, std::int64_t count) {
  return {moment.codes.narrow(0, begin, count), moment.scales.narrow(0, begin / kMomentBlock, blocks_of(count))};
}

}  // namespace

bool keeps_exact_moments(std::string_view name, std::int64_t elements) {
  if (elements < kSmallest8bit) return true;
  return std::any_of(std::begin(kTables), std::end(kTables), [&](const char* end) { return name.ends_with(end); });
}

at::Tensor values_of(DynamicCode code) {
  const auto& values = table_of(code).values();
  at::Tensor out = at::empty({kCodes}, at::TensorOptions().dtype(at::kFloat));
  std::copy(values.begin(), values.end(), out.mutable_data_ptr<float>());
  return out;
}

void encode_by_operations(const at::Tensor& values, DynamicCode code, const CodedMoment& out) {
  const at::Tensor blocks = in_blocks(values);
  const at::Tensor largest = blocks.abs().amax({1}, /*keepdim=*/true);
  const at::Tensor all = values_of(code).to(values.device());
  const at::Tensor middles = all.narrow(0, 0, kCodes - 1).add(all.narrow(0, 1, kCodes - 1)).mul(0.5);
  const at::Tensor scaled = blocks.mul(largest.reciprocal()).clamp(-1.0, 1.0);
  const at::Tensor codes = at::bucketize(scaled, middles, /*out_int32=*/true).to(at::kByte);
  out.codes.copy_(codes.masked_fill(largest.eq(0), 0).flatten().narrow(0, 0, values.numel()));
  out.scales.copy_(largest.squeeze(1));
}

at::Tensor decode_by_operations(const CodedMoment& moment, DynamicCode code) {
  const at::Tensor all = values_of(code).to(moment.codes.device());
  const at::Tensor values = all.index_select(0, moment.codes.to(at::kInt));
  return in_blocks(values).mul(moment.scales.unsqueeze(1)).flatten().narrow(0, 0, values.numel());
}

void encode(const at::Tensor& values, DynamicCode code, const CodedMoment& out) {
  values.is_cpu() ? encode_on_host(values, code, out) : encode_by_operations(values, code, out);
}

at::Tensor decode(const CodedMoment& moment, DynamicCode code) {
  return moment.codes.is_cpu() ? decode_on_host(moment, code) : decode_by_operations(moment, code);
}

void adamw_coded(const AdamWStep& step, const at::Tensor& master, const at::Tensor& grad, const CodedMoment& first,
                 const CodedMoment& second) {
  if (!master.is_cpu()) return update(step, master, grad, first, second);
  static_assert(kPieceInCache % kMomentBlock == 0);
  for_pieces_in_cache(master.numel(), [&](std::int64_t begin, std::int64_t count) {
    update(step, master.narrow(0, begin, count), grad.narrow(0, begin, count), part(first, begin, count),
           part(second, begin, count));
  });
}

}  // namespace tessera::shard
