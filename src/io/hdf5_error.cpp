#include "io/hdf5_error.hpp"

#include <type_traits>

namespace tessera::io {

static_assert(std::is_same_v<hid_t, std::int64_t> || sizeof(hid_t) == sizeof(std::int64_t));

H5Silence::H5Silence() noexcept {
  // Every file of ours is closed by its owner. Where closing failed (a full disk), HDF5 keeps the file and crashes over
  // it when it shuts down at the program's end; so it does not.
  static const herr_t no_shutdown = H5dont_atexit();
  static_cast<void>(no_shutdown);
  H5Eget_auto2(H5E_DEFAULT, &function_, &data_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

H5Silence::~H5Silence() {
  H5Eset_auto2(H5E_DEFAULT, function_, data_);
}

std::string h5_message() {
  std::string text;
  const auto note = [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
    auto& joined = *static_cast<std::string*>(out);
    const std::string line = error->desc != nullptr ? error->desc : "";
    // The innermost two say what happened; the outer ones repeat the names of the calls.
    if (!line.empty() && joined.size() < 200) joined += (joined.empty() ? "" : "; ") + line;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, note, &text);
  return text.empty() ? "HDF5 gave no reason" : text;
}

H5Handle::~H5Handle() {
  (void)close();
}

bool H5Handle::close() noexcept {
  const std::int64_t id = std::exchange(id_, -1);
  if (id < 0) return true;
  const H5Silence silence;
  return closer_(id) >= 0;
}

}  // namespace tessera::io
