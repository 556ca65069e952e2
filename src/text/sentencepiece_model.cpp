#include "text/sentencepiece_model.hpp"

#include <sentencepiece_processor.h>

#include <map>
#include <mutex>

#include "tessera/core/error.hpp"

namespace tessera::text {

namespace {

/// Texts of a data set repeat: the system's words, questions of templates, and each once more when labels are made.
class Memory {
 public:
  std::optional<std::vector<std::string>> find(std::string_view segment) const {
    const std::lock_guard lock(mutex_);
    const auto at = known_.find(segment);
    return at == known_.end() ? std::nullopt : std::optional(at->second);
  }
  void keep(std::string_view segment, const std::vector<std::string>& pieces) {
    if (segment.size() > kLongest) return;
    const std::lock_guard lock(mutex_);
    if (known_.size() >= kMost) known_.clear();
    known_.emplace(segment, pieces);
  }

 private:
  static constexpr std::size_t kLongest = 512, kMost = 4096;  // a few MiB
  mutable std::mutex mutex_;
  std::map<std::string, std::vector<std::string>, std::less<>> known_;
};

}  // namespace

struct SentencePieceModel::Impl {
  sentencepiece::SentencePieceProcessor processor;
  mutable Memory memory;
};

SentencePieceModel::SentencePieceModel(std::string bytes, bool dummy_prefix, const std::filesystem::path& name)
    : impl_(std::make_unique<Impl>()) {
  check_sentencepiece_file(bytes, name);
  // Parts of a message that occur twice are merged, so this sets normalizer_spec (3).add_dummy_prefix (3) to false and
  // leaves the rest of it as it was.
  if (!dummy_prefix) bytes.append("\x1A\x02\x18\x00", 4);
  try {
    const auto status = impl_->processor.LoadFromSerializedProto(bytes);
    if (!status.ok()) {
      throw RequestError("text: '{}' is no usable sentencepiece model: {}", name.string(), status.ToString());
    }
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    throw RequestError("text: '{}' is no usable sentencepiece model: {}", name.string(), e.what());
  }
}

SentencePieceModel::~SentencePieceModel() = default;

std::vector<std::string> SentencePieceModel::pieces_of(std::string_view segment) const {
  if (auto known = impl_->memory.find(segment)) return std::move(*known);
  std::vector<std::string> pieces;
  const auto status = impl_->processor.Encode({segment.data(), segment.size()}, &pieces);
  if (!status.ok()) throw RequestError("text: sentencepiece cannot encode: {}", status.ToString());
  impl_->memory.keep(segment, pieces);
  return pieces;
}

void SentencePieceModel::encode(std::string_view segment, std::vector<std::int64_t>& ids,
                                std::vector<std::string>& pieces) const {
  for (std::string& piece : pieces_of(segment)) {
    ids.push_back(piece_to_id(piece));
    pieces.push_back(std::move(piece));
  }
}

std::int64_t SentencePieceModel::piece_to_id(const std::string& piece) const {
  return impl_->processor.PieceToId(piece);
}

std::optional<std::int64_t> SentencePieceModel::id_of(std::string_view piece) const {
  const int id = impl_->processor.PieceToId({piece.data(), piece.size()});
  if (id < 0 || id >= impl_->processor.GetPieceSize() || impl_->processor.IdToPiece(id) != piece) return std::nullopt;
  return id;
}

std::string SentencePieceModel::piece_of(std::int64_t id) const {
  return impl_->processor.IdToPiece(static_cast<int>(id));
}

std::int64_t SentencePieceModel::size() const {
  return impl_->processor.GetPieceSize();
}

std::string SentencePieceModel::join(const std::vector<std::string>& pieces) const {
  std::string text;
  const auto status = impl_->processor.Decode(pieces, &text);
  if (!status.ok()) throw RequestError("text: sentencepiece cannot decode: {}", status.ToString());
  return text;
}

}  // namespace tessera::text
