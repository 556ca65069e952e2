#pragma once
// The directory of a zip file whose entries are stored as they are, as torch.save writes them; zip64 included.
#include <cstdint>
#include <map>
#include <string>

#include "tessera/core/file.hpp"

namespace tessera::io {

struct ZipEntry {
  std::int64_t offset = 0;  ///< of the data in the file
  std::int64_t size = 0;
};

/// Reads the central directory and each entry's local header. Throws RequestError: compressed or encrypted entries, two
/// of one name, data outside the file, a directory that lies.
std::map<std::string, ZipEntry> read_zip_directory(const InputFile& file);

}  // namespace tessera::io
