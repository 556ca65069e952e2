#include "tessera/core/hash.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <new>
#include <vector>

#include "tessera/core/file.hpp"

namespace tessera {
namespace {

struct FreeState {
  void operator()(XXH3_state_t* state) const noexcept { XXH3_freeState(state); }
};

}  // namespace

std::uint64_t xxh3_64(const void* data, std::size_t bytes) noexcept {
  return XXH3_64bits(data, bytes);
}

struct Hash128::State {
  std::unique_ptr<XXH3_state_t, FreeState> value{XXH3_createState()};
};

Hash128::Hash128() : state_(std::make_unique<State>()) {
  if (state_->value == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(state_->value.get());
}
Hash128::Hash128(Hash128&&) noexcept = default;
Hash128& Hash128::operator=(Hash128&&) noexcept = default;
Hash128::~Hash128() = default;

Hash128& Hash128::update(const void* data, std::size_t bytes) {
  XXH3_128bits_update(state_->value.get(), data, bytes);
  return *this;
}

std::string Hash128::hex() const {
  const auto hash = XXH3_128bits_digest(state_->value.get());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string hash_hex128(std::string_view bytes) {
  return Hash128().update(bytes).hex();
}

std::string hash_file_hex128(const std::filesystem::path& path) {
  constexpr std::int64_t kPiece = std::int64_t{1} << 20;
  const InputFile file(path);
  std::vector<char> piece(static_cast<std::size_t>(std::min(kPiece, file.size())));
  Hash128 hash;
  for (std::int64_t at = 0; at < file.size(); at += kPiece) {
    const auto bytes = static_cast<std::size_t>(std::min(kPiece, file.size() - at));
    file.read(at, piece.data(), bytes);
    hash.update(piece.data(), bytes);
  }
  return hash.hex();
}

}  // namespace tessera
