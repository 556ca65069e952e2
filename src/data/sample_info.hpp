#pragma once
// Where a sample came from, for people.
#include "tessera/data/loader.hpp"

namespace tessera::data {

inline SampleInfo info_of(const Shards& shards, std::int64_t number, std::int64_t row, const StoredSample& sample) {
  SampleInfo info{number, row, shards.source_of(row), sample.image_name, {}};
  for (const auto& conversation : sample.conversations) info.questions.push_back(conversation.question);
  return info;
}

}  // namespace tessera::data
