#pragma once
/// Model: what turns one segment of text, free of added tokens, into pieces; behind it sentencepiece or byte-level BPE.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::text {

class Model {
 public:
  virtual ~Model() = default;
  /// Appends the pieces of a segment and their ids.
  virtual void encode(std::string_view segment, std::vector<std::int64_t>& ids,
                      std::vector<std::string>& pieces) const = 0;
  virtual std::optional<std::int64_t> id_of(std::string_view piece) const = 0;
  virtual std::string piece_of(std::int64_t id) const = 0;  ///< id in [0, size)
  virtual std::int64_t size() const = 0;
  /// Text of a run of pieces.
  virtual std::string join(const std::vector<std::string>& pieces) const = 0;
};

}  // namespace tessera::text
