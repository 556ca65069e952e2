#include "tessera/io/torch_writer.hpp"

#include <zlib.h>

#include <limits>

#include "tessera/core/error.hpp"

namespace tessera::io {

namespace {

constexpr std::uint32_t kLocalHeader = 0x04034b50;
constexpr std::uint32_t kCentralHeader = 0x02014b50;
constexpr std::uint32_t kEndOfDirectory = 0x06054b50;
constexpr std::uint16_t kZipVersion = 20;
constexpr std::uint16_t kDate = 0x21;            // 1 January 1980, so that equal tensors make equal files
constexpr std::size_t kDataAlignment = 64;       // as torch has it, so that files can be mapped
constexpr std::uint16_t kPaddingField = 0x4246;  // "FB", torch's own

class Bytes {
 public:
  Bytes& u8(std::uint8_t v) { return put(v, 1); }
  Bytes& u16(std::uint16_t v) { return put(v, 2); }
  Bytes& u32(std::uint32_t v) { return put(v, 4); }
  Bytes& text(std::string_view s) {
    out_ += s;
    return *this;
  }
  std::string& str() { return out_; }

 private:
  Bytes& put(std::uint64_t v, int bytes) {
    for (int i = 0; i < bytes; ++i) out_ += static_cast<char>(v >> (8 * i) & 0xff);
    return *this;
  }
  std::string out_;
};

// Opcodes of pickle protocol 2, as far as a state dict needs them.
class Pickle {
 public:
  Pickle() { out_.u8(0x80).u8(2); }
  Pickle& op(char code) {
    out_.u8(static_cast<std::uint8_t>(code));
    return *this;
  }
  Pickle& global(std::string_view module, std::string_view name) {
    out_.text("c").text(module).text("\n").text(name).text("\n");
    return *this;
  }
  Pickle& text(std::string_view s) {
    out_.u8('X').u32(static_cast<std::uint32_t>(s.size())).text(s);
    return *this;
  }
  Pickle& integer(std::int64_t value) {
    if (value >= 0 && value <= std::numeric_limits<std::int32_t>::max()) {
      out_.u8('J').u32(static_cast<std::uint32_t>(value));
      return *this;
    }
    out_.u8(0x8a).u8(8);
    for (int i = 0; i < 8; ++i) out_.u8(static_cast<std::uint8_t>(value >> (8 * i) & 0xff));
    return *this;
  }
  Pickle& integers(const std::vector<std::int64_t>& values) {
    op('(');
    for (const auto v : values) integer(v);
    return op('t');
  }
  Pickle& empty_ordered_dict() { return global("collections", "OrderedDict").op(')').op('R'); }
  std::string take() {
    op('.');
    return std::move(out_.str());
  }

 private:
  Bytes out_;
};

std::string_view storage_class(Elem type) {
  switch (type) {
    case Elem::f32:
      return "FloatStorage";
    case Elem::f16:
      return "HalfStorage";
    case Elem::bf16:
      return "BFloat16Storage";
    case Elem::i64:
      return "LongStorage";
    default:
      throw RunError("torch file: no tensor of type {} is written", name_of(type));
  }
}

std::vector<std::int64_t> strides_of(const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> strides(shape.size());
  std::int64_t step = 1;
  for (std::size_t d = shape.size(); d-- > 0;) {
    strides[d] = step;
    step *= shape[d];
  }
  return strides;
}

}  // namespace

TorchFileWriter::TorchFileWriter(const std::filesystem::path& path)
    : path_(path), prefix_(path.stem().string()), file_(path) {}

void TorchFileWriter::add_entry(const std::string& name, const void* data, std::size_t bytes) {
  constexpr std::int64_t kMost = std::numeric_limits<std::uint32_t>::max();
  const std::string full = prefix_ + "/" + name;
  if (file_.position() + static_cast<std::int64_t>(bytes + full.size()) + 4096 > kMost) {
    throw RunError("{}: a torch file of more than 4 GiB is not written; use safetensors", path_.string());
  }
  Entry entry{full, 0, static_cast<std::uint32_t>(bytes), static_cast<std::uint32_t>(file_.position())};
  entry.crc =
      static_cast<std::uint32_t>(crc32_z(crc32_z(0, nullptr, 0), static_cast<const unsigned char*>(data), bytes));
  const std::size_t header = 30 + full.size() + 4;
  const std::size_t end = static_cast<std::size_t>(file_.position()) + header;
  const auto padding = static_cast<std::uint16_t>((kDataAlignment - end % kDataAlignment) % kDataAlignment);
  Bytes local;
  local.u32(kLocalHeader).u16(kZipVersion).u16(0).u16(0).u16(0).u16(kDate);
  local.u32(entry.crc).u32(entry.bytes).u32(entry.bytes);
  local.u16(static_cast<std::uint16_t>(full.size())).u16(static_cast<std::uint16_t>(padding + 4)).text(full);
  local.u16(kPaddingField).u16(padding).text(std::string(padding, 'Z'));
  file_.append(local.str());
  file_.append(data, bytes);
  entries_.push_back(std::move(entry));
}

void TorchFileWriter::write(const TensorInfo& info, const void* data) {
  storage_class(info.type);  // refuses what it does not know before anything is written
  add_entry("data/" + std::to_string(tensors_.size()), data,
            static_cast<std::size_t>(info.numel()) * static_cast<std::size_t>(size_of(info.type)));
  tensors_.push_back(info);
}

std::string TorchFileWriter::pickle() const {
  Pickle p;
  p.empty_ordered_dict().op('(');
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const auto& t = tensors_[i];
    p.text(t.name).global("torch._utils", "_rebuild_tensor_v2").op('(');
    p.op('(').text("storage").global("torch", storage_class(t.type)).text(std::to_string(i)).text("cpu");
    p.integer(t.numel()).op('t').op('Q');
    p.integer(0).integers(t.shape).integers(strides_of(t.shape)).op('\x89').empty_ordered_dict().op('t').op('R');
  }
  return p.op('u').take();
}

void TorchFileWriter::commit() {
  const auto text = pickle();
  add_entry("data.pkl", text.data(), text.size());
  add_entry("byteorder", "little", 6);
  add_entry("version", "3\n", 2);
  const auto begin = static_cast<std::uint32_t>(file_.position());
  for (const auto& e : entries_) {
    Bytes central;
    central.u32(kCentralHeader).u16(kZipVersion).u16(kZipVersion).u16(0).u16(0).u16(0).u16(kDate);
    central.u32(e.crc).u32(e.bytes).u32(e.bytes).u16(static_cast<std::uint16_t>(e.name.size()));
    central.u16(0).u16(0).u16(0).u16(0).u32(0).u32(e.offset).text(e.name);
    file_.append(central.str());
  }
  const auto count = static_cast<std::uint16_t>(entries_.size());
  Bytes end;
  end.u32(kEndOfDirectory).u16(0).u16(0).u16(count).u16(count);
  end.u32(static_cast<std::uint32_t>(file_.position()) - begin).u32(begin).u16(0);
  file_.append(end.str());
  file_.commit();
}

}  // namespace tessera::io
