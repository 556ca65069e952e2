// ShardFile::verify: every checksum, every image, every mask.
#include <fmt/format.h>

#include <algorithm>

#include "data/shard_names.hpp"
#include "tessera/core/error.hpp"
#include "tessera/data/shard_file.hpp"
#include "tessera/io/hdf5.hpp"

namespace tessera::data {
namespace {

/// The checksum of a dataset's content.
std::int64_t checksum_of(const io::H5Dataset& dataset) {
  const auto sum = [](const auto& values) {
    return data::checksum_of(values.data(), values.size() * sizeof(values[0]));
  };
  switch (dataset.type()) {
    case io::H5Type::u8:
      return sum(dataset.read_all<std::uint8_t>());
    case io::H5Type::u16:
      return sum(dataset.read_all<std::uint16_t>());
    case io::H5Type::i32:
      return sum(dataset.read_all<std::int32_t>());
    case io::H5Type::i64:
      return sum(dataset.read_all<std::int64_t>());
    default:
      throw RequestError("holds elements of a type that the format does not know");
  }
}

/// Compares every dataset below `group` that carries a checksum.
void compare_checksums(const io::H5File& file, const std::string& group, std::vector<std::string>& faults) {
  for (const auto& name : file.names(group)) {
    const auto path = group == "/" ? name : group + "/" + name;
    try {
      if (file.is_group(path)) {
        compare_checksums(file, path, faults);
        continue;
      }
      const auto dataset = file.dataset(path);
      const auto attributes = dataset.attributes();
      if (!attributes.has(kChecksum)) continue;
      if (const auto written = attributes.integer(kChecksum), found = checksum_of(dataset); found != written) {
        faults.push_back(fmt::format("{}: checksum {} where {} was written", path, found, written));
      }
    } catch (const Error& error) {
      faults.push_back(fmt::format("{}: {}", path, error.what()));
    }
  }
}

/// What is wrong with a sample's content; empty when nothing is.
std::string fault_of(const ShardFile& file, std::int64_t row) {
  try {
    const auto sample = file.read(row);
    std::int64_t segs = 0;
    for (const auto& conversation : sample.conversations) {
      segs += std::count(conversation.ids.begin(), conversation.ids.end(), file.header().seg_token_id);
    }
    if (segs != static_cast<std::int64_t>(sample.targets.size())) {
      return fmt::format("sample {}: {} [SEG] tokens for {} masks", row, segs, sample.targets.size());
    }
    const bool oriented = file.header().recipe == "lisa";
    const auto fault = [&](const std::vector<std::uint8_t>& bytes, const std::string& name, image::Size expected) {
      const auto header = image::probe(bytes, sample.where);
      const auto size = oriented ? header.oriented() : header.size;
      if (size == expected) return std::string();
      return fmt::format("sample {}: image '{}' is {} x {}, the table says {} x {}", row, name, size.width, size.height,
                         expected.width, expected.height);
    };
    if (!sample.has_image()) return "";
    auto said = fault(sample.image, sample.image_name, sample.size);
    for (const auto& image : sample.more_images) said += fault(image.bytes, image.name, image.size);
    return said;
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

std::vector<std::string> ShardFile::verify() const {
  std::vector<std::string> faults;
  compare_checksums(io::H5File::open(path()), "/", faults);
  for (std::int64_t row = 0; row < samples(); ++row) {
    if (auto fault = fault_of(*this, row); !fault.empty()) faults.push_back(std::move(fault));
  }
  return faults;
}

}  // namespace tessera::data
