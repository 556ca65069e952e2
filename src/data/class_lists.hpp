#pragma once
// The class lists of datasets/classes/, built in.
#include <string>
#include <vector>

namespace tessera::data {

std::vector<std::string> ade20k_classes();
std::vector<std::string> cocostuff_classes();

}  // namespace tessera::data
