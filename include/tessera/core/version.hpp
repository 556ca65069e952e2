#pragma once
/// The program's version, as written into files: "0.1.0".
#include <string>

namespace tessera {

std::string version_string();

}  // namespace tessera
