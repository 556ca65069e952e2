#include "data/refs_file.hpp"

#include <fmt/format.h>

#include "data/annotation_json.hpp"
#include "tessera/io/pickle.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

/// ann_id is one number, or in gRefCOCO a list of them.
std::vector<std::int64_t> ids_of(const io::PickleValue& value) {
  if (value.kind() == io::PickleKind::integer) return {value.integer()};
  std::vector<std::int64_t> ids;
  for (std::size_t i = 0; i < value.size(); ++i) ids.push_back(value.at(i).integer());
  return ids;
}

Ref ref_of(const io::PickleValue& value, const std::string& where) {
  Ref ref{value.integer("image_id"), ids_of(value.at("ann_id")), value.text("split"), {}, where};
  const auto sentences = value.at("sentences");
  for (std::size_t i = 0; i < sentences.size(); ++i) ref.sentences.push_back(sentences.at(i).text("sent"));
  return ref;
}

std::int64_t integer(const nlohmann::json& value, const fs::path& path, const std::string& where) {
  if (!value.is_number_integer()) {
    throw BrokenSample({path.string(), where, fmt::format("expected a whole number, found {}", value.type_name())});
  }
  return value.get<std::int64_t>();
}

Ref ref_of(const nlohmann::json& record, const fs::path& path, const std::string& where) {
  Ref ref;
  ref.image_id = integer(field(record, "image_id", path, where), path, where + ".image_id");
  const auto& ids = field(record, "ann_id", path, where);
  if (ids.is_array()) {
    for (const auto& id : ids) ref.ann_ids.push_back(integer(id, path, where + ".ann_id"));
  } else {
    ref.ann_ids.push_back(integer(ids, path, where + ".ann_id"));
  }
  ref.split = string_field(record, "split", path, where);
  ref.where = where;
  const auto& sentences = as_array(field(record, "sentences", path, where), path, where + ".sentences");
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    ref.sentences.push_back(string_field(sentences[i], "sent", path, fmt::format("{}.sentences[{}]", where, i)));
  }
  return ref;
}

/// A reference is worth keeping when something is said of something.
void add(RefsFile& file, Ref ref) {
  if (ref.sentences.empty()) throw BrokenSample({file.path.string(), ref.where, "a reference without a sentence"});
  if (ref.ann_ids.empty()) throw BrokenSample({file.path.string(), ref.where, "a reference to nothing"});
  file.refs.push_back(std::move(ref));
}

}  // namespace

RefsFile read_refs(const fs::path& path) {
  RefsFile file;
  file.path = path;
  const auto keep = [&](const std::string& where, const auto& make) {
    try {
      add(file, make());
    } catch (const BrokenSample& broken) {
      file.problems.push_back(broken.problem());
    } catch (const RequestError& error) {
      file.problems.push_back({path.string(), where, error.what()});
    }
  };
  if (path.extension() == ".json") {
    for_each_record(path, [&](std::int64_t number, const nlohmann::json& record) {
      const auto where = fmt::format("[{}]", number);
      keep(where, [&] { return ref_of(record, path, where); });
    });
    return file;
  }
  const auto list = io::read_pickle(path);
  for (std::size_t i = 0; i < list.size(); ++i) {
    const auto where = fmt::format("[{}]", i);
    keep(where, [&] { return ref_of(list.at(i), where); });
  }
  return file;
}

}  // namespace tessera::data
