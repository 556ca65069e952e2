#include "tessera/core/version.hpp"

namespace tessera {

std::string version_string() {
  return TESSERA_VERSION;
}

}  // namespace tessera
