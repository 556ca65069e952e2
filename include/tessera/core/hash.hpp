#pragma once
/// Hashes of content: XXH3, for checksums and identities. Not cryptographic. Values are those of the xxHash tools
/// (`xxhsum -H3`, `-H2`), the same on every machine.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace tessera {

/// XXH3-64.
std::uint64_t xxh3_64(const void* data, std::size_t bytes) noexcept;

/// XXH3-128 of pieces given one after another; the same as of all of them at once.
class Hash128 {
 public:
  Hash128();
  Hash128(Hash128&&) noexcept;
  Hash128& operator=(Hash128&&) noexcept;
  ~Hash128();
  Hash128& update(const void* data, std::size_t bytes);
  Hash128& update(std::string_view text) { return update(text.data(), text.size()); }
  /// 32 hexadecimal digits, of what was given so far.
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// XXH3-128 as 32 hexadecimal digits.
std::string hash_hex128(std::string_view bytes);
/// Of a file's content, read in pieces. Throws RequestError when it cannot be read.
std::string hash_file_hex128(const std::filesystem::path& path);

}  // namespace tessera
