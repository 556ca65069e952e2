// Plain pickles, walked to the end.
#include "tessera/core/error.hpp"
#include "tessera/io/pickle.hpp"

namespace {

void walk(const tessera::io::PickleValue& value, std::int64_t& left) {
  using tessera::io::PickleKind;
  if (--left < 0) return;
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (value.kind() == PickleKind::dict) {
      walk(value.key_at(i), left);
      walk(value.value_at(i), left);
    } else {
      walk(value.at(i), left);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto value = tessera::io::parse_pickle({reinterpret_cast<const std::byte*>(data), size}, "input");
    std::int64_t left = 10000;
    walk(value, left);
  } catch (const tessera::RequestError&) {
  }
  return 0;
}
