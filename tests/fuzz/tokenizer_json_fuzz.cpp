// tokenizer.json, as a folder holds it: loaded, used both ways.
#include <filesystem>

#include "fuzz/input_file.hpp"
#include "tessera/core/error.hpp"
#include "tessera/text/tokenizer.hpp"

namespace {

tessera::fuzz::InputFolder& folder() {
  static tessera::fuzz::InputFolder folder("tokenizer.json");
  return folder;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto tokenizer = tessera::text::load_tokenizer(folder().put(data, size));
    (void)tokenizer.decode(tokenizer.encode_ids("aab <x> cab  \xE4\xBD\xA0"));
  } catch (const tessera::RequestError&) {  // the one answer a broken file may get
  }
  return 0;
}
