#include <cstring>

#include "tessera/core/error.hpp"
#include "text/sentencepiece_model.hpp"
#include "text/unicode.hpp"

namespace tessera::text {
namespace {

/// One field of a protobuf message.
struct Field {
  std::uint64_t number = 0;
  std::uint64_t value = 0;      ///< varints and fixed numbers
  std::string_view bytes = {};  ///< length-delimited
  bool delimited = false;
};

class Reader {
 public:
  Reader(std::string_view bytes, std::string_view whole, const std::filesystem::path& name)
      : rest_(bytes), whole_(whole), name_(name) {}

  bool next(Field& field) {
    if (rest_.empty()) return false;
    const std::uint64_t tag = varint();
    field = {};
    field.number = tag >> 3;
    if (field.number == 0) fail("field number 0");
    switch (tag & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        take(8);
        break;
      case 2: {
        const std::uint64_t length = varint();
        if (length > rest_.size()) fail(fmt::format("a field of {} bytes where {} are left", length, rest_.size()));
        field.bytes = take(static_cast<std::size_t>(length));
        field.delimited = true;
        break;
      }
      case 5:
        take(4);
        break;
      default:
        fail(fmt::format("wire type {}", tag & 7));
    }
    return true;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw RequestError("text: '{}' is no sentencepiece model: {} at byte {}", name_.string(), what,
                       static_cast<std::size_t>(rest_.data() - whole_.data()));
  }

 private:
  std::string_view take(std::size_t count) {
    if (count > rest_.size()) fail("it is cut short");
    const std::string_view part = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return part;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    fail("a number of more than ten bytes");
  }

  std::string_view rest_, whole_;
  const std::filesystem::path& name_;
};

/// A character map is: u32 size of the trie, the trie (darts-clone units of 32 bits), NUL-terminated replacements. The
/// library follows the trie's offsets unchecked, so every unit reachable by some byte must lie inside.
void check_charsmap(std::string_view blob, const Reader& at) {
  if (blob.empty()) return;
  std::uint32_t trie_bytes = 0;
  if (blob.size() <= sizeof trie_bytes) at.fail("a character map that is cut short");
  std::memcpy(&trie_bytes, blob.data(), sizeof trie_bytes);
  if (trie_bytes >= blob.size() - sizeof trie_bytes || trie_bytes == 0 || trie_bytes % 4 != 0) {
    at.fail("a character map whose trie is larger than the map");
  }
  const std::string_view texts = blob.substr(sizeof trie_bytes + trie_bytes);
  if (texts.back() != '\0') at.fail("a character map without an end");
  const std::size_t units = trie_bytes / 4;
  const auto unit_at = [&](std::size_t i) {
    std::uint32_t unit = 0;
    std::memcpy(&unit, blob.data() + sizeof trie_bytes + i * 4, 4);
    return unit;
  };
  for (std::size_t i = 0; i < units; ++i) {
    const std::uint32_t unit = unit_at(i);
    // A leaf: its value is an offset into the replacements. The first unit is the root whatever it says.
    if (i > 0 && (unit >> 31) != 0) {
      if ((unit & 0x7FFFFFFFU) >= texts.size()) at.fail("a character map that points outside its texts");
      continue;
    }
    const std::size_t offset = (unit >> 10) << ((unit & (1U << 9)) >> 6);
    if (((i ^ offset) | 0xFF) >= units) at.fail("a character map whose trie points outside itself");
    // A unit that ends a key names its leaf, whose value the library takes whatever stands there.
    if ((unit & (1U << 8)) != 0 && (unit_at(i ^ offset) & 0x7FFFFFFFU) >= texts.size()) {
      at.fail("a character map that points outside its texts");
    }
  }
}

void check_piece(std::string_view message, std::string_view whole, const std::filesystem::path& name) {
  Reader reader(message, whole, name);
  bool named = false;
  for (Field field; reader.next(field);) {
    if (field.number != 1) continue;
    if (!field.delimited || field.bytes.empty()) reader.fail("an empty piece");
    if (field.bytes.find('\0') != std::string_view::npos) reader.fail("a piece with a NUL");
    if (find_invalid_utf8(field.bytes) != std::string_view::npos) reader.fail("a piece that is not UTF-8");
    named = true;
  }
  if (!named) reader.fail("a piece without text");
}

void check_normalizer(std::string_view message, std::string_view whole, const std::filesystem::path& name) {
  Reader reader(message, whole, name);
  for (Field field; reader.next(field);) {
    if (field.number == 2 && field.delimited) check_charsmap(field.bytes, reader);
  }
}

}  // namespace

void check_sentencepiece_file(std::string_view bytes, const std::filesystem::path& name) {
  constexpr std::uint64_t kPieces = 1;
  constexpr std::uint64_t kNormalizer = 3;
  constexpr std::uint64_t kDenormalizer = 5;
  Reader reader(bytes, bytes, name);
  std::size_t pieces = 0;
  for (Field field; reader.next(field);) {
    if (field.number == kPieces) {
      if (!field.delimited) reader.fail("a piece that is no message");
      check_piece(field.bytes, bytes, name);
      ++pieces;
    } else if ((field.number == kNormalizer || field.number == kDenormalizer) && field.delimited) {
      check_normalizer(field.bytes, bytes, name);
    }
  }
  if (pieces == 0) reader.fail("it has no pieces");
}

}  // namespace tessera::text
