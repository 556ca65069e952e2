// JSON of configurations and indexes: parsed, then every value asked for as every type.
#include <functional>

#include "tessera/core/error.hpp"
#include "tessera/core/json.hpp"

namespace {

void ask(const std::function<void()>& question) {
  try {
    question();
  } catch (const tessera::RequestError&) {
  }
}

void walk(const tessera::JsonView& value, int& left) {
  if (--left < 0) return;
  ask([&] { (void)value.integer(); });
  ask([&] { (void)value.real(); });
  ask([&] { (void)value.boolean(); });
  ask([&] { (void)value.text(); });
  ask([&] { (void)value.texts(); });
  if (value.is_object()) {
    for (const auto& key : value.keys()) walk(value.at(key), left);
  }
  for (std::size_t i = 0; value.is_array() && i < value.size(); ++i) walk(value.at(i), left);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ask([&] {
    int left = 1000;
    walk(tessera::parse_json({reinterpret_cast<const char*>(data), size}, "input"), left);
  });
  return 0;
}
