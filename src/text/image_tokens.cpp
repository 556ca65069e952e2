#include "tessera/text/image_tokens.hpp"

#include "text/unicode.hpp"

namespace tessera::text {

Encoding encode_with_images(const Tokenizer& tokenizer, std::string_view text) {
  Encoding out;
  std::size_t dropped = 0;  // ids at the front of every piece: its own BOS
  bool first = true;
  for (const std::string_view part : split(text, kImageToken)) {
    Encoding piece = tokenizer.encode(part);
    if (first) {
      if (const auto bos = tokenizer.bos_id(); bos && !piece.ids.empty() && piece.ids[0] == *bos) {
        dropped = 1;
        out.ids.push_back(piece.ids[0]);
        out.pieces.push_back(piece.pieces[0]);
      }
    } else {
      out.ids.push_back(kImageId);
      out.pieces.emplace_back(kImageToken);
    }
    first = false;
    const auto skip = static_cast<std::ptrdiff_t>(std::min(dropped, piece.ids.size()));
    out.ids.insert(out.ids.end(), piece.ids.begin() + skip, piece.ids.end());
    out.pieces.insert(out.pieces.end(), std::make_move_iterator(piece.pieces.begin() + skip),
                      std::make_move_iterator(piece.pieces.end()));
  }
  return out;
}

std::string wrap_image_tokens(std::string_view text) {
  return replace_all(text, kImageToken, "<im_start><image><im_end>");
}

}  // namespace tessera::text
