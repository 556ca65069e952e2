#include "text/sentencepiece_model.hpp"

#include <sentencepiece_processor.h>

#include "tessera/core/error.hpp"

namespace tessera::text {

struct SentencePieceModel::Impl {
  sentencepiece::SentencePieceProcessor processor;
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
  std::vector<std::string> pieces;
  const auto status = impl_->processor.Encode({segment.data(), segment.size()}, &pieces);
  if (!status.ok()) throw RequestError("text: sentencepiece cannot encode: {}", status.ToString());
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
