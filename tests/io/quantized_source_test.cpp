// Folders that bitsandbytes saved (tests/golden/models/quantized.py), and damaged ones.
#include "tessera/io/quantized_source.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/io/safetensors.hpp"

namespace tessera::io {
namespace {

using testing_support::message_of;
const std::string kData = TESSERA_SOURCE_DIR "/tests/golden/models/data/";
const std::string kLayer = "model.layers.1.mlp.down_proj";

std::vector<float> values_of(const TensorSource& source, const std::string& name, std::int64_t begin,
                             std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count));
  const auto* info = source.find(name);
  EXPECT_NE(info, nullptr) << name;
  if (info != nullptr) source.read_f32(*info, begin, count, out.data());
  return out;
}

TEST(QuantizedSource, MatricesHaveTheValuesThatTheirBitsStandFor) {
  for (const std::string name : {"qlora_nf4_double", "qlora_fp4", "qlora_int8"}) {
    const SafetensorsReader expected(kData + name + "/expected.safetensors");
    const auto source = open_weights(kData + name + "_packed");
    const auto* info = source->find(kLayer + ".weight");
    ASSERT_NE(info, nullptr);
    EXPECT_EQ(info->shape, (std::vector<std::int64_t>{40, 76}));
    EXPECT_EQ(info->type, Elem::f32);
    const auto want = values_of(expected, "dequant." + kLayer, 0, 40 * 76);
    EXPECT_EQ(values_of(*source, info->name, 0, 40 * 76), want) << name;
    // Ranges that begin and end inside blocks and rows.
    for (const auto& [begin, count] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {63, 2}, {75, 200}, {3001, 39}}) {
      EXPECT_EQ(values_of(*source, info->name, begin, count),
                std::vector<float>(want.begin() + begin, want.begin() + begin + count))
          << name << " from " << begin;
    }
  }
}

TEST(QuantizedSource, AnOutlierThresholdIsThatOfTheConfigBeside) {
  const auto at = [](const SourcePtr& source) { return source->packed(*source->find(kLayer + ".weight"))->threshold; };
  EXPECT_EQ(at(open_weights(kData + "qlora_int8_packed")), 5.0);
  EXPECT_EQ(at(open_weights(kData + "qlora_int8_packed/model.safetensors")), 5.0);
  EXPECT_EQ(at(open_weights(kData + "qlora_fp4_packed")), std::nullopt);
  EXPECT_EQ(outlier_threshold(kData + "qlora_int8"), std::nullopt);
  const testing_support::TempDir dir;
  EXPECT_EQ(outlier_threshold(dir.path()), std::nullopt);
  for (const char* value : {"-1", "\"6\""}) {
    write_file(dir / "config.json", std::string(R"({"quantization_config": {"llm_int8_threshold": )") + value + "}}");
    EXPECT_NE(message_of<RequestError>([&] { outlier_threshold(dir.path()); }).find("llm_int8_threshold"),
              std::string::npos);
  }
}

TEST(QuantizedSource, PartsAreNoTensorsOfTheirOwnAndTheRestStaysAsItIs) {
  for (const std::string name : {"qlora_nf4_double", "qlora_fp4", "qlora_int8"}) {
    const auto plain = open_weights(kData + name), packed = open_weights(kData + name + "_packed");
    ASSERT_EQ(plain->tensors().size(), packed->tensors().size()) << name;
    for (std::size_t i = 0; i < plain->tensors().size(); ++i) {
      const auto& info = plain->tensors()[i];
      EXPECT_EQ(packed->tensors()[i].name, info.name);
      EXPECT_EQ(packed->tensors()[i].shape, info.shape);
      const bool quantised = info.name.find("_proj") != std::string::npos;
      EXPECT_EQ(packed->packed(packed->tensors()[i]) != nullptr, quantised) << info.name;
      if (quantised) continue;
      EXPECT_EQ(values_of(*packed, info.name, 0, info.numel()), values_of(*plain, info.name, 0, info.numel()));
    }
    EXPECT_EQ(unpack_quantized(plain), plain);
  }
}

/// A file with one matrix of four bits, of which `change` alters the tensors before they are written.
struct Part {
  TensorInfo info;
  std::vector<std::uint8_t> bytes;
};
template <class T>
Part part(const std::string& name, Elem type, const std::vector<T>& values) {
  Part out{{name, type, {static_cast<std::int64_t>(values.size())}}, {}};
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(values.data());
  out.bytes.assign(bytes, bytes + values.size() * sizeof(T));
  return out;
}

std::vector<Part> four_bit_parts(const std::string& state) {
  const auto code = codebook(QuantKind::nf4);
  return {part("w", Elem::u8, std::vector<std::uint8_t>(35, 0x7f)),
          part("w.absmax", Elem::f32, std::vector<float>{2, 3}),
          part("w.quant_map", Elem::f32, std::vector<float>(code.begin(), code.end())),
          part("w.quant_state.bitsandbytes__nf4", Elem::u8, std::vector<std::uint8_t>(state.begin(), state.end()))};
}
const std::string kState = R"({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [7, 10]})";

std::string opened(const std::vector<Part>& parts) {
  const testing_support::TempDir dir;
  std::vector<TensorInfo> table;
  for (const auto& p : parts) table.push_back(p.info);
  SafetensorsWriter writer(dir / "model.safetensors", table);
  for (const auto& p : parts) writer.write(p.info.name, 0, p.info.numel(), p.bytes.data());
  writer.commit();
  return message_of<RequestError>([&] { open_weights(dir / "model.safetensors"); });
}

TEST(QuantizedSource, DamageIsNamed) {
  EXPECT_EQ(opened(four_bit_parts(kState)), "(nothing was thrown)");
  const auto refused = [](std::vector<Part> parts, const std::string& words) {
    const auto text = opened(parts);
    EXPECT_NE(text.find(words), std::string::npos) << text;
    EXPECT_NE(text.find("model.safetensors"), std::string::npos) << text;
  };
  const auto without = [](std::size_t i) {
    auto parts = four_bit_parts(kState);
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(i));
    return parts;
  };
  refused(without(0), "lacks its part 'w'");
  refused(without(1), "lacks its part 'w.absmax'");
  refused(without(2), "lacks its part 'w.quant_map'");
  refused(four_bit_parts(R"({"quant_type": "nf4", "blocksize": 128, "shape": [7, 10]})"), "blocks of 128");
  refused(four_bit_parts(R"({"quant_type": "nf4", "blocksize": 64, "shape": [8, 10]})"), "[8, 10]");
  refused(four_bit_parts(R"({"quant_type": "int8", "blocksize": 64, "shape": [7, 10]})"), "four bits");
  refused(four_bit_parts(R"({"quant_type": "fp4", "blocksize": 64, "shape": [7, 10]})"), "codebook");
  refused(four_bit_parts("{"), "quant_state");
  auto scales = four_bit_parts(kState);
  scales[1] = part("w.absmax", Elem::f32, std::vector<float>{1});
  refused(scales, "one absmax for each block");
  refused({part("m.weight", Elem::i8, std::vector<std::int8_t>(6)), part("m.SCB", Elem::f32, std::vector<float>(2))},
          "one scale for each row");
  Part matrix = part("m.weight", Elem::i8, std::vector<std::int8_t>(6));
  matrix.info.shape = {2, 3};
  refused({matrix, part("m.SCB", Elem::f32, std::vector<float>(2)),
           part("m.weight_format", Elem::u8, std::vector<std::uint8_t>{2})},
          "layout of columns");
}

TEST(QuantizedSource, CodesInAnotherTypesBytesAreTheSame) {
  auto parts = four_bit_parts(R"({"quant_type": "nf4", "blocksize": 64, "shape": [8, 9]})");
  std::vector<std::uint16_t> wide(18);
  for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = static_cast<std::uint16_t>(0x2100 + i);
  parts[0] = part("w", Elem::bf16, wide);
  const testing_support::TempDir dir;
  std::vector<TensorInfo> table;
  for (const auto& p : parts) table.push_back(p.info);
  SafetensorsWriter writer(dir / "model.safetensors", table);
  for (const auto& p : parts) writer.write(p.info.name, 0, p.info.numel(), p.bytes.data());
  writer.commit();
  const auto source = open_weights(dir / "model.safetensors");
  const auto* packed = source->packed(*source->find("w"));
  ASSERT_NE(packed, nullptr);
  std::vector<std::uint8_t> bytes(5);
  read_codes(*packed, 3, 5, bytes.data());
  EXPECT_EQ(bytes, (std::vector<std::uint8_t>{0x21, 0x02, 0x21, 0x03, 0x21}));
}

}  // namespace
}  // namespace tessera::io
