#include "shard/checkpoint_format.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "tessera/core/direct_file.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/hash.hpp"

namespace tessera::shard::format {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kSealKey = ",\n \"xxh3_64\": \"";
constexpr std::string_view kSealEnd = "\"\n}\n";
constexpr std::size_t kSealBytes = kSealKey.size() + 16 + kSealEnd.size();

RequestError damaged(const fs::path& path, const std::string& how) {
  return RequestError("checkpoint file {} is damaged: {}", path.string(), how);
}

std::uint64_t number_of(const json& j) {
  const auto& text = j.get_ref<const std::string&>();
  std::uint64_t v = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), v, 16);
  if (error != std::errc() || end != text.data() + text.size() || text.size() != 16) {
    throw json::other_error::create(501, "'" + text + "' is no 64-bit number in hexadecimal", &j);
  }
  return v;
}

// The manifest without its last brace, then a last member that is the checksum of all bytes before it.
std::string seal(std::string text) {
  text.resize(text.size() - 2);  // "\n}"
  const auto checksum = xxh3_64(text.data(), text.size());
  return text + std::string(kSealKey) + hex(checksum) + std::string(kSealEnd);
}

bool is_sealed(const std::string& text) {
  if (text.size() < kSealBytes) return false;
  const std::size_t body = text.size() - kSealBytes;
  return text.compare(body, kSealBytes,
                      std::string(kSealKey) + hex(xxh3_64(text.data(), body)) + std::string(kSealEnd)) == 0;
}

// Reads `fill(json)`; what it or the parser does not understand is the file's fault.
template <class F>
auto parse_as(const fs::path& path, const std::string& text, F&& fill) {
  try {
    return fill(json::parse(text));
  } catch (const json::exception& e) {
    throw damaged(path, e.what());
  }
}

json to_json(const Entry& e) {
  json blocks = json::array();
  for (const auto b : e.blocks) blocks.push_back(hex(b));
  return {{"tensor", e.tensor},
          {"state", e.state},
          {"begin", e.begin},
          {"count", e.count},
          {"offset", e.offset},
          {"size", e.size},
          {"xxh3_64", std::move(blocks)}};
}

Entry entry_of(const json& j) {
  Entry e;
  j.at("tensor").get_to(e.tensor);
  j.at("state").get_to(e.state);
  j.at("begin").get_to(e.begin);
  j.at("count").get_to(e.count);
  j.at("offset").get_to(e.offset);
  e.size = j.value("size", e.size);
  for (const auto& b : j.at("xxh3_64")) e.blocks.push_back(number_of(b));
  return e;
}

json to_json(const FileRow& row) {
  return {{"stem", row.stem}, {"bytes", row.bytes}, {"table_xxh3_64", hex(row.table_checksum)}};
}

FileRow row_of(const json& j) {
  return {j.at("stem").get<std::string>(), j.at("bytes").get<std::int64_t>(), number_of(j.at("table_xxh3_64"))};
}

// Offsets follow from counts; a table that says otherwise was not written by us.
bool is_gapless(const Table& table, std::int64_t file_bytes) {
  std::int64_t at = table.header_bytes;
  for (const auto& e : table.entries) {
    if (e.begin < 0 || e.count <= 0 || (e.size != 4 && e.size != 1) || e.count > (file_bytes - at) / e.size ||
        e.offset != at)
      return false;
    if (static_cast<std::int64_t>(e.blocks.size()) != (e.count + kBlock - 1) / kBlock) return false;
    at += e.bytes();
  }
  return at == file_bytes;
}

}  // namespace

std::int64_t Table::file_bytes() const noexcept {
  return entries.empty() ? header_bytes : entries.back().offset + entries.back().bytes();
}

std::string rank_stem(int rank, int ranks) {
  return fmt::format("rank-{:05}-of-{:05}", rank, ranks);
}

std::string hex(std::uint64_t v) {
  return fmt::format("{:016x}", v);
}

std::string make_header(std::vector<Entry>& entries) {
  json header = json::object();
  std::int64_t end = 0;
  for (auto& e : entries) {
    e.offset = end;
    end += e.bytes();
    header[fmt::format("{}[{}:{}].{}", e.tensor, e.begin, e.begin + e.count, e.state)] = {
        {"dtype", e.size == 4 ? "F32" : "U8"}, {"shape", {e.count}}, {"data_offsets", {e.offset, end}}};
  }
  std::string text = header.dump();
  const std::size_t whole = (text.size() + 8 + DirectFile::kAlign - 1) / DirectFile::kAlign * DirectFile::kAlign;
  text.resize(whole - 8, ' ');  // blanks at the end are part of the format
  std::string out(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  for (auto& e : entries) e.offset += static_cast<std::int64_t>(whole);
  return out + text;
}

std::string encode(const Table& table) {
  json pieces = json::array();
  for (const auto& e : table.entries) pieces.push_back(to_json(e));
  return json{{"header_bytes", table.header_bytes},
              {"header_xxh3_64", hex(table.header_checksum)},
              {"block_elements", kBlock},
              {"pieces", std::move(pieces)}}
      .dump();
}

std::string encode(const FileRow& row) {
  return to_json(row).dump();
}

FileRow decode_row(const std::string& text) {
  return row_of(json::parse(text));
}

std::string encode(const Manifest& manifest) {
  const auto& info = manifest.info;
  json tensors = json::array();
  for (const auto& t : info.tensors) tensors.push_back({{"name", t.name}, {"shape", t.shape}});
  json files = json::array();
  for (const auto& f : manifest.files) files.push_back(to_json(f));
  return seal(json{{"format", kFormat},
                   {"program", info.program},
                   {"step", info.step},
                   {"ranks", info.ranks},
                   {"frozen_digest", hex(info.frozen_digest)},
                   {"optimizer", info.optimizer},
                   {"optimizer_steps", info.optimizer_steps},
                   {"average", info.average},
                   {"tensors", std::move(tensors)},
                   {"trainer", json::parse(info.trainer_state)},
                   {"files", std::move(files)}}
                  .dump(1));
}

Manifest read_manifest_file(const fs::path& folder) {
  if (!fs::is_directory(folder)) throw RequestError("checkpoint {} does not exist", folder.string());
  const fs::path path = folder / kManifest;
  const std::string text = read_file(path);
  return parse_as(path, text, [&](const json& j) {
    const int format = j.value("format", 0);
    if (format != kFormat && (is_sealed(text) || format == 1)) {  // format 1 had no checksum of its own
      throw RequestError("checkpoint file {} has format {}, this program reads {}", path.string(), format, kFormat);
    }
    if (!is_sealed(text)) throw damaged(path, "its content does not have the checksum that stands at its end");
    Manifest m;
    m.info.step = j.at("step").get<std::int64_t>();
    m.info.ranks = j.at("ranks").get<int>();
    m.info.frozen_digest = number_of(j.at("frozen_digest"));
    m.info.optimizer = j.value("optimizer", m.info.optimizer);
    m.info.optimizer_steps = j.at("optimizer_steps").get<std::int64_t>();
    m.info.average = j.value("average", false);
    m.info.trainer_state = j.at("trainer").dump();
    m.info.program = j.at("program").get<std::string>();
    for (const auto& t : j.at("tensors")) {
      m.info.tensors.push_back({t.at("name").get<std::string>(), t.at("shape").get<std::vector<std::int64_t>>()});
    }
    for (const auto& f : j.at("files")) {
      m.files.push_back(row_of(f));
      m.info.files.push_back({m.files.back().stem, m.files.back().bytes});
      m.info.bytes += m.files.back().bytes;
    }
    return m;
  });
}

Table read_table(const fs::path& folder, const FileRow& row) {
  const fs::path path = folder / (row.stem + ".json");
  const std::string text = read_file(path);
  if (xxh3_64(text.data(), text.size()) != row.table_checksum) {
    throw damaged(path, "its checksum is not the one that the manifest gives");
  }
  return parse_as(path, text, [&](const json& j) {
    Table table;
    table.header_bytes = j.at("header_bytes").get<std::int64_t>();
    table.header_checksum = number_of(j.at("header_xxh3_64"));
    if (j.at("block_elements").get<std::int64_t>() != kBlock) throw damaged(path, "its blocks have another size");
    for (const auto& piece : j.at("pieces")) table.entries.push_back(entry_of(piece));
    if (!is_gapless(table, row.bytes)) throw damaged(path, "its pieces do not fill the data file");
    return table;
  });
}

InputFile open_data(const fs::path& folder, const FileRow& row) {
  InputFile data(folder / (row.stem + ".safetensors"));
  if (data.size() != row.bytes) {
    throw RequestError("checkpoint file {} is cut short or grown: {} bytes, the manifest says {}", data.path().string(),
                       data.size(), row.bytes);
  }
  return data;
}

void check_header(const InputFile& data, const Table& table) {
  std::string header(static_cast<std::size_t>(table.header_bytes), '\0');
  data.read(0, header.data(), header.size());
  if (xxh3_64(header.data(), header.size()) != table.header_checksum) {
    throw damaged(data.path(), "its header has another checksum than its table says");
  }
}

void read_block(const InputFile& data, const Entry& entry, std::size_t index, void* out) {
  const std::int64_t first = static_cast<std::int64_t>(index) * kBlock;
  const std::int64_t count = std::min(kBlock, entry.count - first);
  const auto bytes = static_cast<std::size_t>(count * entry.size);
  data.read(entry.offset + first * entry.size, out, bytes);
  if (xxh3_64(out, bytes) != entry.blocks.at(index)) {
    throw damaged(data.path(), fmt::format("{} of '{}' [{}:{}] has another checksum than its table says", entry.state,
                                           entry.tensor, entry.begin + first, entry.begin + first + count));
  }
}

}  // namespace tessera::shard::format
