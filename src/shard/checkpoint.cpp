#include "tessera/shard/checkpoint.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "tessera/comm/agree.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/version.hpp"

namespace tessera::shard {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kFormat = 1;
constexpr const char* kManifest = "manifest.json";

std::string rank_stem(int rank, int ranks) {
  return fmt::format("rank-{:05}-of-{:05}", rank, ranks);
}
std::string hex(std::uint64_t v) {
  return fmt::format("{:016x}", v);
}

struct State {
  const char* name;
  at::Tensor TrainedSlice::*member;
};
constexpr State kStates[] = {
    {"master", &TrainedSlice::master}, {"exp_avg", &TrainedSlice::exp_avg}, {"exp_avg_sq", &TrainedSlice::exp_avg_sq}};

// One row of a rank's table.
struct Entry {
  std::string tensor;
  std::string state;
  std::int64_t begin = 0, count = 0, offset = 0;  // elements, elements, bytes in the file
  std::uint64_t checksum = 0;
};

void to_json(json& j, const Entry& e) {
  j = {{"tensor", e.tensor}, {"state", e.state},   {"begin", e.begin},
       {"count", e.count},   {"offset", e.offset}, {"xxh3_64", hex(e.checksum)}};
}

void from_json(const json& j, Entry& e) {
  j.at("tensor").get_to(e.tensor);
  j.at("state").get_to(e.state);
  j.at("begin").get_to(e.begin);
  j.at("count").get_to(e.count);
  j.at("offset").get_to(e.offset);
  e.checksum = std::stoull(j.at("xxh3_64").get<std::string>(), nullptr, 16);
}

// The safetensors header: names, shapes and offsets are known before any data.
std::string safetensors_header(const std::vector<Entry>& entries) {
  json header = json::object();
  for (const auto& e : entries) {
    header[fmt::format("{}[{}:{}].{}", e.tensor, e.begin, e.begin + e.count, e.state)] = {
        {"dtype", "F32"}, {"shape", {e.count}}, {"data_offsets", {e.offset, e.offset + e.count * 4}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string out(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  return out + text;
}

struct PieceRef {
  Entry entry;
  at::Tensor data;  // fp32 view of a slice
};

std::vector<PieceRef> pieces_of(std::vector<TrainedSlice>& slices) {
  std::vector<PieceRef> out;
  std::int64_t offset = 0;
  for (auto& slice : slices) {
    for (const auto& piece : slice.pieces) {
      const auto& param = *slice.layout->tensors()[piece.tensor].param;
      for (const auto& state : kStates) {
        out.push_back({{param.name, state.name, piece.tensor_begin, piece.count, offset, 0},
                       (slice.*(state.member)).narrow(0, piece.slice_begin, piece.count)});
        offset += piece.count * 4;
      }
    }
  }
  return out;
}

// Writes this rank's two files and returns their row for the manifest.
json write_rank_files(const fs::path& folder, Engine& engine) {
  const auto stem = rank_stem(engine.control().rank(), engine.control().size());
  auto pieces = pieces_of(engine.trained());
  std::vector<Entry> entries;
  for (const auto& p : pieces) entries.push_back(p.entry);
  AtomicFile data(folder / (stem + ".safetensors"));
  const auto header = safetensors_header(entries);
  data.reserve(static_cast<std::int64_t>(header.size()) +
               (entries.empty() ? 0 : entries.back().offset + entries.back().count * 4));
  data.append(header);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const at::Tensor host = pieces[i].data.to(c10::Device(c10::DeviceType::CPU)).contiguous();
    entries[i].offset += static_cast<std::int64_t>(header.size());  // the table gives offsets in the file
    entries[i].checksum = XXH3_64bits(host.const_data_ptr(), host.nbytes());
    data.append(host.const_data_ptr(), host.nbytes());
  }
  const auto bytes = data.position();
  data.commit();
  const std::string table = json(entries).dump();
  write_file(folder / (stem + ".json"), table);
  return {{"stem", stem}, {"bytes", bytes}, {"table_xxh3_64", hex(XXH3_64bits(table.data(), table.size()))}};
}

json trained_tensors(Engine& engine) {
  json list = json::array();
  for (const auto& slice : engine.trained()) {
    for (const auto& t : slice.layout->tensors()) list.push_back({{"name", t.param->name}, {"shape", t.param->shape}});
  }
  return list;
}

json parse_file(const fs::path& path) {
  try {
    return json::parse(read_file(path));
  } catch (const json::exception& e) {
    throw RequestError("checkpoint file {} is damaged: {}", path.string(), e.what());
  }
}

json read_manifest_json(const fs::path& folder) {
  if (!fs::is_directory(folder)) throw RequestError("checkpoint {} does not exist", folder.string());
  const json manifest = parse_file(folder / kManifest);
  const int format = manifest.value("format", 0);
  if (format != kFormat) {
    throw RequestError("checkpoint {} has format {}, this program reads {}", folder.string(), format, kFormat);
  }
  return manifest;
}

std::vector<Entry> read_table(const fs::path& folder, const json& file) {
  const fs::path path = folder / (file.at("stem").get<std::string>() + ".json");
  const auto text = read_file(path);
  if (hex(XXH3_64bits(text.data(), text.size())) != file.at("table_xxh3_64").get<std::string>()) {
    throw RequestError("checkpoint file {} is damaged: its checksum differs from the manifest's", path.string());
  }
  return json::parse(text).get<std::vector<Entry>>();
}

InputFile open_data(const fs::path& folder, const json& file) {
  InputFile data(folder / (file.at("stem").get<std::string>() + ".safetensors"));
  if (data.size() != file.at("bytes").get<std::int64_t>()) {
    throw RequestError("checkpoint file {} is cut short or grown: {} bytes, the manifest says {}", data.path().string(),
                       data.size(), file.at("bytes").get<std::int64_t>());
  }
  return data;
}

std::vector<float> read_checked(const InputFile& data, const Entry& entry) {
  std::vector<float> values(static_cast<std::size_t>(entry.count));
  data.read(entry.offset, values.data(), values.size() * 4);
  if (XXH3_64bits(values.data(), values.size() * 4) != entry.checksum) {
    throw RequestError("checkpoint file {} is damaged: {} of '{}' [{}:{}] has another checksum than its table",
                       data.path().string(), entry.state, entry.tensor, entry.begin, entry.begin + entry.count);
  }
  return values;
}

void check_fits(const fs::path& folder, const json& manifest, Engine& engine, std::uint64_t frozen_digest) {
  std::map<std::string, std::vector<std::int64_t>> theirs;
  for (const auto& t : manifest.at("tensors")) theirs[t.at("name")] = t.at("shape").get<std::vector<std::int64_t>>();
  std::string problems;
  std::size_t count = 0;
  auto note = [&](std::string text) {
    if (count++ < 5) problems += "\n  " + text;
  };
  for (const auto& slice : engine.trained()) {
    for (const auto& t : slice.layout->tensors()) {
      const auto found = theirs.find(t.param->name);
      if (found == theirs.end()) {
        note("not in the checkpoint: " + t.param->name);
      } else {
        if (found->second != t.param->shape) note("another shape: " + t.param->name);
        theirs.erase(found);
      }
    }
  }
  for (const auto& [name, shape] : theirs) note("not trained in this run: " + name);
  if (count > 0) {
    throw RequestError("checkpoint {} is of another model or trains other parameters ({} differences):{}",
                       folder.string(), count, problems);
  }
  if (manifest.at("frozen_digest").get<std::string>() != hex(frozen_digest)) {
    throw RequestError(
        "checkpoint {} was trained on another base: its frozen weights have digest {}, these have {}; pass the "
        "--version, --vision_tower and --vision_pretrained it was made with",
        folder.string(), manifest.at("frozen_digest").get<std::string>(), hex(frozen_digest));
  }
}

// Where a rank's own ranges of one tensor lie.
struct Wanted {
  std::int64_t begin, count;
  at::Tensor target;  // fp32 view of the slice
};

void fill_from_piece(const std::vector<float>& values, const Entry& entry, const Wanted& want) {
  const std::int64_t first = std::max(entry.begin, want.begin);
  const std::int64_t last = std::min(entry.begin + entry.count, want.begin + want.count);
  if (first >= last) return;
  const at::Tensor source = at::from_blob(const_cast<float*>(values.data()) + (first - entry.begin), {last - first},
                                          at::TensorOptions().dtype(at::kFloat));
  want.target.narrow(0, first - want.begin, last - first).copy_(source);
}

CheckpointInfo info_of(const json& manifest) {
  CheckpointInfo info;
  info.step = manifest.at("step").get<std::int64_t>();
  info.ranks = manifest.at("ranks").get<int>();
  info.frozen_digest = std::stoull(manifest.at("frozen_digest").get<std::string>(), nullptr, 16);
  info.trainer_state = manifest.at("trainer").dump();
  info.program = manifest.value("program", "");
  for (const auto& t : manifest.at("tensors")) {
    info.tensors.push_back({t.at("name").get<std::string>(), t.at("shape").get<std::vector<std::int64_t>>()});
  }
  for (const auto& f : manifest.at("files")) info.bytes += f.at("bytes").get<std::int64_t>();
  return info;
}

}  // namespace

void save_checkpoint(const fs::path& root, std::int64_t step, Engine& engine, const AdamW& optimizer,
                     std::uint64_t frozen_digest, const std::string& trainer_state) {
  auto& control = engine.control();
  const fs::path final_folder = root / fmt::format("step-{}", step);
  const fs::path partial = root / fmt::format(".step-{}.partial", step);
  comm::on_rank_zero(control, [&] {
    fs::remove_all(partial);
    make_directories(partial);
  });
  json row;
  comm::on_every_rank(control, [&] { row = write_rank_files(partial, engine); });
  const auto rows = comm::gather_texts(control, row.dump());
  comm::on_rank_zero(control, [&] {
    json manifest = {{"format", kFormat},
                     {"program", version_string()},
                     {"step", step},
                     {"ranks", control.size()},
                     {"frozen_digest", hex(frozen_digest)},
                     {"optimizer_steps", optimizer.steps()},
                     {"tensors", trained_tensors(engine)},
                     {"trainer", json::parse(trainer_state)},
                     {"files", json::array()}};
    for (const auto& text : rows) manifest["files"].push_back(json::parse(text));
    write_file(partial / kManifest, manifest.dump(1));
    sync_directory(partial);
    // A checkpoint of the same step, from a run that went on from an older one, gives way only to a whole one.
    const fs::path old = root / fmt::format(".step-{}.old", step);
    fs::remove_all(old);
    if (fs::exists(final_folder)) fs::rename(final_folder, old);
    fs::rename(partial, final_folder);
    sync_directory(root);
    fs::remove_all(old);
  });
}

CheckpointInfo load_checkpoint(const fs::path& folder, Engine& engine, AdamW& optimizer, std::uint64_t frozen_digest) {
  CheckpointInfo info;
  comm::on_every_rank(engine.control(), [&] {
    const json manifest = read_manifest_json(folder);
    check_fits(folder, manifest, engine, frozen_digest);
    std::map<std::pair<std::string, std::string>, std::vector<Wanted>> wanted;
    std::int64_t missing = 0;
    for (auto& piece : pieces_of(engine.trained())) {
      wanted[{piece.entry.tensor, piece.entry.state}].push_back({piece.entry.begin, piece.entry.count, piece.data});
      missing += piece.entry.count;
    }
    for (const auto& file : manifest.at("files")) {
      std::optional<InputFile> data;
      for (const auto& entry : read_table(folder, file)) {
        const auto found = wanted.find({entry.tensor, entry.state});
        if (found == wanted.end()) continue;
        std::vector<float> values;
        for (const auto& want : found->second) {
          const auto overlap =
              std::min(entry.begin + entry.count, want.begin + want.count) - std::max(entry.begin, want.begin);
          if (overlap <= 0) continue;
          if (!data) data.emplace(open_data(folder, file));
          if (values.empty()) values = read_checked(*data, entry);
          fill_from_piece(values, entry, want);
          missing -= overlap;
        }
      }
    }
    if (missing != 0)
      throw RequestError("checkpoint {} lacks {} elements of the trained tensors", folder.string(), missing);
    optimizer.set_steps(manifest.at("optimizer_steps").get<std::int64_t>());
    info = info_of(manifest);
  });
  return info;
}

CheckpointInfo read_manifest(const fs::path& folder) {
  const json manifest = read_manifest_json(folder);
  try {
    return info_of(manifest);
  } catch (const json::exception& e) {
    throw RequestError("checkpoint file {} is damaged: {}", (folder / kManifest).string(), e.what());
  }
}

std::vector<std::string> verify_checkpoint(const fs::path& folder) {
  std::vector<std::string> problems;
  const json manifest = read_manifest_json(folder);
  for (const auto& file : manifest.at("files")) {
    try {
      const auto table = read_table(folder, file);
      const auto data = open_data(folder, file);
      for (const auto& entry : table) {
        try {
          read_checked(data, entry);
        } catch (const RequestError& e) {
          problems.emplace_back(e.what());
        }
      }
    } catch (const RequestError& e) {
      problems.emplace_back(e.what());
    }
  }
  return problems;
}

std::vector<fs::path> list_checkpoints(const fs::path& root) {
  std::map<std::int64_t, fs::path> by_step;
  if (!fs::is_directory(root)) return {};
  for (const auto& entry : fs::directory_iterator(root)) {
    const auto name = entry.path().filename().string();
    if (!entry.is_directory() || !name.starts_with("step-") || !fs::exists(entry.path() / kManifest)) continue;
    const auto digits = name.substr(5);
    if (digits.empty() || digits.find_first_not_of("0123456789") != std::string::npos) continue;
    by_step[std::stoll(digits)] = entry.path();
  }
  std::vector<fs::path> out;
  for (auto& [step, path] : by_step) out.push_back(path);
  return out;
}

void prune_checkpoints(const fs::path& root, std::int64_t keep) {
  const auto all = list_checkpoints(root);
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < all.size(); ++i) {
    // Renamed first: a folder that is half removed must not look whole.
    const fs::path dying = root / ("." + all[i].filename().string() + ".old");
    fs::rename(all[i], dying);
    fs::remove_all(dying);
  }
  if (!fs::is_directory(root)) return;
  std::vector<fs::path> left;
  for (const auto& entry : fs::directory_iterator(root)) {
    const auto name = entry.path().filename().string();
    if (name.starts_with(".step-") && (name.ends_with(".partial") || name.ends_with(".old")))
      left.push_back(entry.path());
  }
  for (const auto& path : left) fs::remove_all(path);
}

}  // namespace tessera::shard
