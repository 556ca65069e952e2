#pragma once
/// The sentencepiece library behind the Model interface, and the check that a file is safe to hand to it.
#include <filesystem>

#include "text/model.hpp"

namespace tessera::text {

class SentencePieceModel : public Model {
 public:
  /// dummy_prefix false: the model's own "space in front of the text" is switched off (4.37, non-legacy).
  SentencePieceModel(std::string bytes, bool dummy_prefix, const std::filesystem::path& name);
  ~SentencePieceModel() override;

  void encode(std::string_view segment, std::vector<std::int64_t>& ids,
              std::vector<std::string>& pieces) const override;
  std::vector<std::string> pieces_of(std::string_view segment) const;
  std::int64_t piece_to_id(const std::string& piece) const;  ///< the unknown id for what is no piece
  std::optional<std::int64_t> id_of(std::string_view piece) const override;
  std::string piece_of(std::int64_t id) const override;
  std::int64_t size() const override;
  std::string join(const std::vector<std::string>& pieces) const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Walks the file as a sentencepiece ModelProto and refuses what the library would trip over: lengths that lie, empty
/// pieces or pieces with a NUL, character maps whose double array points outside itself. Throws RequestError.
void check_sentencepiece_file(std::string_view bytes, const std::filesystem::path& name);

}  // namespace tessera::text
