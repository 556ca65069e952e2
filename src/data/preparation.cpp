#include "data/preparation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "data/output_folder.hpp"
#include "data/prefetch.hpp"
#include "data/shard_summary.hpp"
#include "data/unit_builder.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/progress.hpp"
#include "tessera/data/shard_file.hpp"

namespace tessera::data {
namespace {

constexpr std::int64_t kAheadBytes = std::int64_t{64} << 20;
constexpr std::size_t kProblemsShown = 20;

/// One shard to make: rank `index % ranks` makes it.
struct Task {
  const Split* split;
  const PlannedShard* shard;
};

UnitBuilder builder_of(const PrepareConfig& config, const Work& work, const Split& split) {
  UnitBuilder builder;
  builder.readers = &split.readers;
  builder.tokenizer = &work.tokenizer;
  builder.form = work.form;
  builder.encoding.recipe = config.recipe == "lisa" ? text::Recipe::lisa : text::Recipe::llava;
  builder.encoding.max_length = config.model_max_length.value();
  builder.encoding.truncate = false;
  builder.use_start_end = config.use_mm_start_end.value();
  builder.seg_token_id = work.header.seg_token_id;
  builder.seed = static_cast<std::uint64_t>(config.seed);
  builder.draws = split.draws;
  return builder;
}

std::vector<Task> tasks_of(const Work& work) {
  std::vector<Task> tasks;
  for (const auto& split : work.splits) {
    for (const auto& shard : split.shards) tasks.push_back({&split, &shard});
  }
  return tasks;
}

class Preparation {
 public:
  Preparation(const PrepareConfig& config, const Work& work, comm::Communicator& comm, const Log& log,
              FrozenTowers* towers)
      : config_(config),
        work_(work),
        comm_(comm),
        log_(log),
        towers_(config.check ? nullptr : towers),
        folder_(config.output_dir, config.strict, log),
        tasks_(tasks_of(work)) {
    for (const auto& task : tasks_) names_.push_back(task.shard->name);
  }

  PrepareOutcome run(const std::string& command_line) {
    outcome_.manifest.complete = false;
    outcome_.manifest.made_by = work_.header.made_by;
    outcome_.manifest.command_line = command_line;
    outcome_.manifest.tokenizer_hash = work_.header.tokenizer_hash;
    if (!config_.check) {
      comm::on_every_rank(comm_, [&] { folder_.note_heads(); });
      comm::on_rank_zero(comm_, [&] { folder_.claim(names_, outcome_.manifest); });
    }
    start_progress();
    towers_ != nullptr ? make_in_rounds() : make_all();
    progress_.reset();
    collect();
    report();
    finish();
    return std::move(outcome_);
  }

 private:
  bool is_mine(std::size_t task) const {
    return static_cast<int>(task % static_cast<std::size_t>(comm_.size())) == comm_.rank();
  }

  /// Rank 0 shows its own images, which stand for those of the other ranks.
  void start_progress() {
    std::int64_t images = 0;
    for (std::size_t i = 0; i < tasks_.size(); ++i) {
      if (is_mine(i)) images += static_cast<std::int64_t>(tasks_[i].shard->units.size());
    }
    ProgressSettings settings;
    settings.style = config_.quiet ? ProgressStyle::silent : progress_style(comm_.rank());
    settings.unit = "images";
    progress_.emplace("prepare", images, settings);
  }

  void advance(std::int64_t images) {
    images_done_ += images;
    progress_->update(images_done_);
  }

  void make_all() {
    comm::on_every_rank(comm_, [&] {
      for (std::size_t i = 0; i < tasks_.size(); ++i) {
        if (!is_mine(i) || keep(tasks_[i])) continue;
        write(tasks_[i], build(tasks_[i]));
      }
    });
  }

  /// One shard a rank at a time, since all ranks run the towers together.
  void make_in_rounds() {
    const auto ranks = static_cast<std::size_t>(comm_.size());
    for (std::size_t first = 0; first < tasks_.size(); first += ranks) {
      const auto own = first + static_cast<std::size_t>(comm_.rank());
      std::optional<ShardData> data;
      comm::on_every_rank(comm_, [&] {
        if (own < tasks_.size() && !keep(tasks_[own])) data = build(tasks_[own]);
      });
      towers_->run(data ? &*data : nullptr);
      comm::on_every_rank(comm_, [&] {
        if (data) write(tasks_[own], *data);
      });
    }
  }

  /// Whether an earlier run has made it; then it counts as done.
  bool keep(const Task& task) {
    auto summary = config_.check ? std::nullopt : folder_.kept(*task.shard);
    if (!summary) return false;
    summary->kept = true;
    mine_.push_back(std::move(*summary));
    advance(static_cast<std::int64_t>(task.shard->units.size()));
    return true;
  }

  ShardData build(const Task& task) {
    const auto builder = builder_of(config_, work_, *task.split);
    const auto& units = task.shard->units;
    ShardData data;
    ImageRows images;
    for (const auto& reader : task.split->readers) {
      data.sources.name.add(reader->source());
      data.sources.family.add(reader->family());
    }
    Prefetch<BuiltUnit> ahead(
        {.workers = static_cast<int>(config_.workers),
         .bytes = kAheadBytes,
         .end = static_cast<std::int64_t>(units.size())},
        [&](std::int64_t i) { return builder.build(units[static_cast<std::size_t>(i)]); },
        [&](std::int64_t i) { return units[static_cast<std::size_t>(i)].bytes; });
    for (std::size_t i = 0; i < units.size(); ++i) {
      const auto unit = std::move(ahead.take(1).front());
      for (const auto& skipped : unit.skipped) log_.debug("skipped: {}", skipped.problem.text());
      append_unit(data, images, unit);
      advance(1);
    }
    return data;
  }

  void write(const Task& task, const ShardData& data) {
    if (config_.check) {
      mine_.push_back(summarise(data, task.split->name, task.shard->name));
      return;
    }
    auto header = work_.header;
    header.split = task.split->name;
    header.plan = task.shard->fingerprint;
    const auto path = folder_.written_path(task.shard->name);
    write_shard(path, header, data);
    mine_.push_back(summarise(ShardFile(path), path, task.shard->name));
  }

  /// Summaries of all ranks, in the order of the plan.
  void collect() {
    nlohmann::json list = nlohmann::json::array();
    for (const auto& summary : mine_) list.push_back(to_json(summary));
    std::map<std::string, ShardSummary> by_name;
    for (const auto& text :
         comm::gather_texts(comm_, list.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))) {
      for (const auto& entry : nlohmann::json::parse(text)) {
        auto summary = shard_summary(entry);
        by_name.emplace(summary.entry.name, std::move(summary));
      }
    }
    auto& manifest = outcome_.manifest;
    for (const auto& task : tasks_) {
      const auto& summary = by_name.at(task.shard->name);
      outcome_.shards_kept += summary.kept ? 1 : 0;
      manifest.shards.push_back(summary.entry);
      for (const auto& [source, counts] : summary.counts) manifest.counts[task.split->name + ": " + source] += counts;
      manifest.skipped.insert(manifest.skipped.end(), summary.skipped.begin(), summary.skipped.end());
    }
    for (const auto& split : work_.splits) {
      for (const auto& reader : split.readers) {
        for (const auto& problem : reader->problems()) {
          manifest.skipped.push_back({problem, reader->source()});
          ++manifest.counts[split.name + ": " + reader->source()].skipped;
        }
      }
    }
  }

  void report() const {
    const auto& manifest = outcome_.manifest;
    for (std::size_t i = 0; i < manifest.skipped.size() && i < kProblemsShown && comm_.rank() == 0; ++i) {
      log_.warn("skipped: {}", manifest.skipped[i].problem.text());
    }
    if (manifest.skipped.size() > kProblemsShown && comm_.rank() == 0) {
      log_.warn("… and {} more; {} lists them all", manifest.skipped.size() - kProblemsShown, kManifestName);
    }
    for (const auto& [source, c] : manifest.counts) {
      log_.info("{}: {} items, {} samples, {} conversations, {} masks, {} tokens, {} skipped", source, c.items,
                c.samples, c.conversations, c.targets, c.tokens, c.skipped);
    }
  }

  void finish() {
    const auto& skipped = outcome_.manifest.skipped;
    const bool refused = config_.strict && !skipped.empty();
    std::int64_t samples = 0;
    for (const auto& shard : outcome_.manifest.shards) samples += shard.samples;
    if (!config_.check) {
      comm::on_rank_zero(comm_, [&] {
        refused || samples == 0 ? folder_.withdraw(names_) : folder_.publish(names_, outcome_.manifest);
      });
    }
    comm::on_every_rank(comm_, [&] {
      if (refused) {
        throw RequestError("{} broken sample{}, and --strict is set; the first: {}", skipped.size(),
                           skipped.size() == 1 ? "" : "s", skipped.front().problem.text());
      }
      if (samples == 0) {
        throw RequestError("not one sample could be used; the first of {} faults: {}", skipped.size(),
                           skipped.empty() ? "none" : skipped.front().problem.text());
      }
    });
    outcome_.manifest.complete = true;
  }

  const PrepareConfig& config_;
  const Work& work_;
  comm::Communicator& comm_;
  const Log& log_;
  FrozenTowers* towers_;
  OutputFolder folder_;
  std::vector<Task> tasks_;
  std::vector<std::string> names_;  ///< of their shards
  std::vector<ShardSummary> mine_;
  PrepareOutcome outcome_;
  std::optional<Progress> progress_;
  std::int64_t images_done_ = 0;
};

}  // namespace

PrepareOutcome carry_out(const PrepareConfig& config, const Work& work, comm::Communicator& comm, const Log& log,
                         const std::string& command_line, FrozenTowers* towers) {
  return Preparation(config, work, comm, log, towers).run(command_line);
}

}  // namespace tessera::data
