// tokenizer.model: checked, handed to the sentencepiece library, used both ways.
#include <string>
#include <vector>

#include "tessera/core/error.hpp"
#include "text/sentencepiece_model.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const tessera::text::SentencePieceModel model({reinterpret_cast<const char*>(data), size}, true, "input");
    std::vector<std::int64_t> ids;
    std::vector<std::string> pieces;
    model.encode("Once upon a time \xE4\xBD\xA0 \xEF\xAC\x81", ids, pieces);
    (void)model.join(pieces);
  } catch (const tessera::RequestError&) {  // the one answer a broken file may get
  }
  return 0;
}
