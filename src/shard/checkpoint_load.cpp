// Reading a checkpoint into slices that may be cut otherwise than its files.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "shard/checkpoint_files.hpp"
#include "shard/checkpoint_format.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/core/error.hpp"
#include "tessera/shard/checkpoint.hpp"

namespace tessera::shard {

namespace {

namespace fs = std::filesystem;
using format::Entry;
using format::kBlock;
using format::Manifest;

void check_trained(const fs::path& folder, const CheckpointInfo& info, Engine& engine) {
  std::map<std::string, std::vector<std::int64_t>> theirs;
  for (const auto& t : info.tensors) theirs[t.name] = t.shape;
  std::string problems;
  std::size_t count = 0;
  auto note = [&](const std::string& text) {
    if (count++ < 5) problems += (problems.empty() ? " " : "; ") + text;
  };
  for (const auto& slice : engine.trained()) {
    for (const auto& t : slice.layout->tensors()) {
      const auto found = theirs.find(t.param->name);
      if (found == theirs.end()) {
        note("not in the checkpoint: " + t.param->name);
        continue;
      }
      if (found->second != t.param->shape) note("another shape: " + t.param->name);
      theirs.erase(found);
    }
  }
  for (const auto& [name, shape] : theirs) note("not trained in this run: " + name);
  if (count == 0) return;
  throw RequestError("checkpoint {} is of another model or trains other parameters ({} differences):{}{}",
                     folder.string(), count, problems, count > 5 ? "; …" : "");
}

void check_base(const fs::path& folder, const CheckpointInfo& info, std::uint64_t frozen_digest) {
  if (info.frozen_digest == frozen_digest) return;
  throw RequestError(
      "checkpoint {} was trained on another base: its frozen weights have digest {}, these have {}; pass the "
      "--version, --vision_tower and --vision_pretrained it was made with",
      folder.string(), format::hex(info.frozen_digest), format::hex(frozen_digest));
}

// The ranges of this rank's slices, by tensor and state, and how much of them is still to come.
class Wanted {
 public:
  explicit Wanted(std::vector<TrainedSlice>& slices) {
    for (auto& piece : pieces_of(slices)) {
      missing_ += piece.entry.count;
      auto& ranges = by_name_[{piece.entry.tensor, piece.entry.state}];
      ranges.push_back({piece.entry.begin, piece.entry.count, piece.data});
    }
  }
  std::int64_t missing() const noexcept { return missing_; }

  bool overlaps(const Entry& entry) const {
    const auto found = by_name_.find({entry.tensor, entry.state});
    if (found == by_name_.end()) return false;
    return std::any_of(found->second.begin(), found->second.end(),
                       [&](const Range& r) { return r.common(entry.begin, entry.count).second > 0; });
  }

  // Reads the blocks of a piece that lie in the slices, into place where the slice takes a whole block.
  void fill(const InputFile& data, const Entry& entry, std::vector<std::byte>& buffer) {
    for (auto& range : by_name_.at({entry.tensor, entry.state})) {
      for (std::size_t b = 0; b < entry.blocks.size(); ++b) {
        const std::int64_t begin = entry.begin + static_cast<std::int64_t>(b) * kBlock;
        const std::int64_t count = std::min(kBlock, entry.begin + entry.count - begin);
        const auto [first, common] = range.common(begin, count);
        if (common <= 0) continue;
        at::Tensor target = range.target.narrow(0, first - range.begin, common);
        if (common == count && target.is_cpu()) {
          read_block(data, entry, b, target.mutable_data_ptr());
        } else {
          buffer.resize(static_cast<std::size_t>(count * entry.size));
          read_block(data, entry, b, buffer.data());
          target.copy_(at::from_blob(buffer.data() + (first - begin) * entry.size, {common},
                                     at::TensorOptions().dtype(target.scalar_type())));
        }
        missing_ -= common;
      }
    }
  }

 private:
  struct Range {
    std::int64_t begin, count;
    at::Tensor target;  // view of the slice
    std::pair<std::int64_t, std::int64_t> common(std::int64_t other, std::int64_t n) const {
      const auto first = std::max(begin, other);
      return {first, std::min(begin + count, other + n) - first};
    }
  };
  std::map<std::pair<std::string, std::string>, std::vector<Range>> by_name_;
  std::int64_t missing_ = 0;
};

// Each file's table and header are checked by at least one rank whatever the slices; the pieces by those that hold
// them.
void read_files(const fs::path& folder, const Manifest& manifest, Engine& engine) {
  const at::NoGradGuard no_grad;
  const auto files = manifest.files.size();
  const auto rank = static_cast<std::size_t>(engine.control().rank());
  const auto ranks = static_cast<std::size_t>(engine.control().size());
  Wanted wanted(engine.trained());
  std::vector<std::byte> buffer;
  for (std::size_t i = 0; i < files; ++i) {
    const std::size_t f = (rank + i) % files;  // its own first: with as many ranks as wrote, that is all
    const bool answers_for = f % ranks == rank;
    if (!answers_for && wanted.missing() == 0) continue;
    const auto table = format::read_table(folder, manifest.files[f]);
    std::optional<InputFile> data;
    if (answers_for) {
      data.emplace(format::open_data(folder, manifest.files[f]));
      format::check_header(*data, table);
    }
    for (const auto& entry : table.entries) {
      if (!wanted.overlaps(entry)) continue;
      if (!data) data.emplace(format::open_data(folder, manifest.files[f]));
      wanted.fill(*data, entry, buffer);
    }
  }
  if (wanted.missing() == 0) return;
  throw RequestError("checkpoint {} lacks {} elements of the trained tensors", folder.string(), wanted.missing());
}

}  // namespace

CheckpointInfo load_checkpoint(const fs::path& folder, Engine& engine, Optimizer& optimizer,
                               std::uint64_t frozen_digest) {
  CheckpointInfo info;
  comm::on_every_rank(engine.control(), [&] {
    const Manifest manifest = format::read_manifest_file(folder);
    check_trained(folder, manifest.info, engine);
    check_base(folder, manifest.info, frozen_digest);
    if (manifest.info.optimizer != name_of(optimizer.config().kind)) {
      throw RequestError("checkpoint {} holds the states of {}, this run's optimiser is {}: pass the --optim it had",
                         folder.string(), manifest.info.optimizer, name_of(optimizer.config().kind));
    }
    if (manifest.info.average != engine.config().average) {
      throw RequestError("checkpoint {} {} averages of the weights: {}", folder.string(),
                         manifest.info.average ? "holds" : "holds no",
                         manifest.info.average ? "pass the --ema_decay it had" : "leave out --ema_decay");
    }
    read_files(folder, manifest, engine);
    optimizer.set_steps(manifest.info.optimizer_steps);
    info = manifest.info;
  });
  return info;
}

CheckpointInfo read_manifest(const fs::path& folder) {
  return format::read_manifest_file(folder).info;
}

std::vector<std::string> verify_checkpoint(const fs::path& folder) {
  std::vector<std::string> problems;
  const Manifest manifest = format::read_manifest_file(folder);
  auto note = [&](const std::function<void()>& check) {
    try {
      check();
    } catch (const RequestError& e) {
      problems.emplace_back(e.what());
    }
  };
  std::vector<float> buffer(static_cast<std::size_t>(kBlock));
  for (const auto& row : manifest.files) {
    note([&] {
      const auto table = format::read_table(folder, row);
      const auto data = format::open_data(folder, row);
      note([&] { format::check_header(data, table); });
      for (const auto& entry : table.entries) {
        for (std::size_t b = 0; b < entry.blocks.size(); ++b) note([&] { read_block(data, entry, b, buffer.data()); });
      }
    });
  }
  return problems;
}

}  // namespace tessera::shard
