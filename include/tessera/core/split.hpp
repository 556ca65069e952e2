#pragma once
/// Lists in one text: "a,b", "a||b".
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

/// The parts of `text` between occurrences of `separator`, which is not empty; empty parts too, and the whole where it
/// does not occur. They point into `text`.
std::vector<std::string_view> split(std::string_view text, std::string_view separator);

/// The same without the empty parts, and with a memory of their own.
std::vector<std::string> split_names(std::string_view text, std::string_view separator);

}  // namespace tessera
