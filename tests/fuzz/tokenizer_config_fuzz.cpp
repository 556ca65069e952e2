// tokenizer_config.json, as a folder holds it beside a sentencepiece model: loaded, used both ways.
#include <filesystem>

#include "fuzz/input_file.hpp"
#include "tessera/core/error.hpp"
#include "tessera/text/tokenizer.hpp"

namespace {

tessera::fuzz::InputFolder& folder() {
  static tessera::fuzz::InputFolder folder("tokenizer_config.json");
  static const bool copied = std::filesystem::copy_file(TESSERA_TINY_MODEL, folder.path() / "tokenizer.model");
  if (!copied) std::abort();
  return folder;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto tokenizer = tessera::text::load_tokenizer(folder().put(data, size));
    (void)tokenizer.decode(tokenizer.encode_ids("Once <s> [SEG] upon"));
  } catch (const tessera::RequestError&) {  // the one answer a broken file may get
  }
  return 0;
}
