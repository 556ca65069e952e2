#pragma once
/// Pickles, read by a machine that can build nothing but None, booleans, numbers, texts, bytes, lists, tuples, dicts
/// and ordered dicts. Nothing is imported or called; a pickle that names any other class or function is refused by its
/// name. Protocols 0 to 5. For REFER's `refs(unc).p`; torch_file.hpp adds tensors.
///
/// A PickleValue shares ownership of its document. Throws RequestError naming file and place.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::io {

enum class PickleKind : std::uint8_t { none, boolean, integer, real, text, bytes, list, tuple, dict, other };

struct PickleLimits {
  std::int64_t max_bytes = std::int64_t{1} << 28;
  std::int64_t max_values = std::int64_t{1} << 24;  ///< values built
  /// Values met by someone who walks the whole tree, where a shared part counts each time it is met.
  std::int64_t max_walk = std::int64_t{1} << 28;
  int max_depth = 64;
};

struct PickleNode;

class PickleValue {
 public:
  PickleValue(std::shared_ptr<const void> owner, const PickleNode* node, std::string where);
  PickleKind kind() const noexcept;
  std::size_t size() const noexcept;        ///< of a list, tuple or dict
  PickleValue at(std::size_t index) const;  ///< of a list or tuple
  PickleValue at(std::string_view key) const;
  bool has(std::string_view key) const;  ///< a dict with this text as a key, not None
  PickleValue key_at(std::size_t index) const;
  PickleValue value_at(std::size_t index) const;

  std::int64_t integer() const;  ///< an integer of 64 bits
  double real() const;           ///< a float or an integer
  bool boolean() const;
  std::string text() const;  ///< str, or the str of Python 2, its bytes as they are
  std::int64_t integer(std::string_view key) const { return at(key).integer(); }
  std::string text(std::string_view key) const { return at(key).text(); }

  const std::string& where() const noexcept { return where_; }
  const PickleNode& node() const noexcept { return *node_; }

 private:
  [[noreturn]] void expected(std::string_view what) const;
  std::shared_ptr<const void> owner_;
  const PickleNode* node_;
  std::string where_;
};

PickleValue parse_pickle(std::span<const std::byte> bytes, const std::string& origin, PickleLimits limits = {});
PickleValue read_pickle(const std::filesystem::path& path, PickleLimits limits = {});

}  // namespace tessera::io
