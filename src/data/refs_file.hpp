#pragma once
// The list of referring expressions: a pickle of plain dictionaries, or the same as JSON.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tessera/data/problem.hpp"

namespace tessera::data {

struct Ref {
  std::int64_t image_id = 0;
  std::vector<std::int64_t> ann_ids;  ///< -1 alone: the expression names nothing in the image
  std::string split;
  std::vector<std::string> sentences;
  std::string where;  ///< "[12]"
};

struct RefsFile {
  std::filesystem::path path;
  std::vector<Ref> refs;
  std::vector<Problem> problems;  ///< records left out
};

/// `.p` is read by the restricted pickle reader, `.json` as JSON. Throws RequestError naming the file.
RefsFile read_refs(const std::filesystem::path& path);

}  // namespace tessera::data
