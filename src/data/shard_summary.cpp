#include "data/shard_summary.hpp"

#include <nlohmann/json.hpp>
#include <set>

#include "tessera/core/hash.hpp"

namespace tessera::data {
namespace {

using nlohmann::json;

void add_skipped(ShardSummary& summary, const std::vector<std::string>& reports) {
  for (const auto& text : reports) {
    const auto report = json::parse(text, nullptr, false);
    if (!report.is_object()) continue;
    const auto get = [&](const char* name) { return report.value(name, std::string()); };
    summary.skipped.push_back({{get("file"), get("where"), get("why")}, get("source")});
    ++summary.counts[summary.skipped.back().source].skipped;
  }
}

/// Counts samples by source, told of one sample after another.
class Counter {
 public:
  explicit Counter(ShardSummary& summary) : summary_(summary) {}
  void add(const std::string& source, const std::string& family, std::int64_t item, std::int64_t conversations,
           std::int64_t targets, std::int64_t tokens) {
    auto& counts = summary_.counts[source];
    counts.family = family;
    counts.items += items_[source].insert(item).second ? 1 : 0;
    counts.samples += 1;
    counts.conversations += conversations;
    counts.targets += targets;
    counts.tokens += tokens;
    summary_.entry.samples += 1;
  }

 private:
  ShardSummary& summary_;
  std::map<std::string, std::set<std::int64_t>> items_;
};

}  // namespace

ShardSummary summarise(const ShardFile& file, const std::filesystem::path& path, const std::string& name) {
  ShardSummary summary;
  summary.entry = {name,
                   file.header().split,
                   static_cast<std::int64_t>(std::filesystem::file_size(path)),
                   hash_file_hex128(path),
                   head_hash(path),
                   file.images(),
                   0};
  Counter counter(summary);
  for (std::int64_t i = 0; i < file.samples(); ++i) {
    const auto source = static_cast<std::size_t>(file.source_of(i));
    const auto sizes = file.sizes_of(i);
    counter.add(file.source_names()[source], file.source_families()[source], file.item_of(i), sizes.conversations,
                sizes.targets, sizes.tokens);
  }
  add_skipped(summary, file.skipped());
  return summary;
}

ShardSummary summarise(const ShardData& data, const std::string& split, const std::string& name) {
  ShardSummary summary;
  summary.entry = {name, split, 0, "", "", static_cast<std::int64_t>(data.images.height.size()), 0};
  Counter counter(summary);
  const auto text = [](const RaggedText& rows, std::size_t i) {
    return std::string(rows.values.begin() + rows.offsets[i], rows.values.begin() + rows.offsets[i + 1]);
  };
  const auto& samples = data.samples;
  for (std::size_t i = 0; i < samples.image.size(); ++i) {
    const auto source = static_cast<std::size_t>(samples.source[i]);
    const auto first = samples.conversation_offsets[i];
    const auto last = samples.conversation_offsets[i + 1];
    const auto& ids = data.conversations.ids.offsets;
    counter.add(text(data.sources.name, source), text(data.sources.family, source), samples.item[i], last - first,
                samples.target_offsets[i + 1] - samples.target_offsets[i],
                ids[static_cast<std::size_t>(last)] - ids[static_cast<std::size_t>(first)]);
  }
  std::vector<std::string> reports;
  for (std::size_t i = 0; i + 1 < data.skipped.offsets.size(); ++i) reports.push_back(text(data.skipped, i));
  add_skipped(summary, reports);
  return summary;
}

json to_json(const ShardSummary& summary) {
  json out = {{"name", summary.entry.name},       {"split", summary.entry.split}, {"bytes", summary.entry.bytes},
              {"xxh3", summary.entry.xxh3},       {"head", summary.entry.head},   {"images", summary.entry.images},
              {"samples", summary.entry.samples}, {"kept", summary.kept},         {"counts", json::array()},
              {"skipped", json::array()}};
  for (const auto& [source, c] : summary.counts) {
    out["counts"].push_back({source, c.family, c.items, c.samples, c.conversations, c.targets, c.tokens, c.skipped});
  }
  for (const auto& s : summary.skipped)
    out["skipped"].push_back({s.problem.file, s.problem.where, s.problem.why, s.source});
  return out;
}

ShardSummary shard_summary(const json& in) {
  ShardSummary summary;
  summary.entry = {in.at("name"), in.at("split"),  in.at("bytes"),  in.at("xxh3"),
                   in.at("head"), in.at("images"), in.at("samples")};
  summary.kept = in.at("kept");
  for (const auto& c : in.at("counts")) {
    summary.counts[c.at(0)] = {c.at(1), c.at(2), c.at(3), c.at(4), c.at(5), c.at(6), c.at(7)};
  }
  for (const auto& s : in.at("skipped")) summary.skipped.push_back({{s.at(0), s.at(1), s.at(2)}, s.at(3)});
  return summary;
}

}  // namespace tessera::data
