#pragma once
// Words as Python's str.split() counts them: the length by which LLaVA's sampler groups its records.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::data {

/// Runs of anything but Unicode white space; `text` is UTF-8.
std::int64_t count_words(std::string_view text);
std::int64_t count_words(const std::vector<std::string>& texts);

}  // namespace tessera::data
