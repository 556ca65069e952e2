#include "tessera/data/prepare.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "data/prefetch.hpp"
#include "data/shard_summary.hpp"
#include "data/sources.hpp"
#include "data/unit_builder.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/comm/communicator.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/progress.hpp"
#include "tessera/core/version.hpp"
#include "tessera/data/plan.hpp"
#include "tessera/data/shard_file.hpp"
#include "tessera/text/image_tokens.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
constexpr std::int64_t kAheadBytes = 64 * kMiB;
constexpr std::size_t kProblemsShown = 20;

/// One split: its data sets and their shards.
struct Split {
  std::string name;
  std::int64_t draws = 1;
  std::vector<std::unique_ptr<Reader>> readers;
  std::vector<PlannedShard> shards;
};

/// Everything that is known before the first image is read; equal on every rank.
struct Work {
  text::Tokenizer tokenizer;
  const text::Template* form;
  ShardHeader header;  ///< without split and plan
  std::vector<Split> splits;
};

/// The settings that determine what is written, as flags.
std::string content_settings(const PrepareConfig& config) {
  return fmt::format(
      "--dataset {} --sem_seg_data {} --refer_seg_data {} --vqa_data {} --reason_seg_data {} --data_path '{}' "
      "--image_folder '{}' --own_data '{}' --val_dataset {} --explanatory {} "
      "--num_classes_per_sample {} --part_union {} --polygon_slack {} --conv_type {} --recipe {} --model_max_length {} "
      "--use_mm_start_end {} --shard_mib {} --draws {} --seed {}",
      config.dataset, config.sem_seg_data, config.refer_seg_data, config.vqa_data, config.reason_seg_data,
      config.data_path, config.image_folder, config.own_data, config.val_dataset, config.explanatory,
      config.num_classes_per_sample, config.part_union, config.polygon_slack, config.conv_type, config.recipe,
      config.model_max_length.value(), config.use_mm_start_end.value(), config.shard_mib, config.draws, config.seed);
}

text::TokenizerRules tokenizer_rules(const PrepareConfig& config) {
  const bool start_end = config.use_mm_start_end.value();
  if (config.recipe == "lisa") return text::lisa_rules(start_end);
  text::TokenizerRules rules;
  if (start_end)
    rules.add = {{.content = std::string(text::kImStartToken)}, {.content = std::string(text::kImEndToken)}};
  return rules;
}

ShardHeader make_header(const PrepareConfig& config, const text::Tokenizer& tokenizer) {
  ShardHeader header;
  header.tokenizer_hash = tokenizer.content_hash();
  header.conversation_template = config.conv_type;
  header.recipe = config.recipe;
  if (config.recipe == "lisa") header.seg_token_id = tokenizer.require_id(text::kSegToken);
  if (config.use_mm_start_end.value()) {
    header.im_start_id = tokenizer.require_id(text::kImStartToken);
    header.im_end_id = tokenizer.require_id(text::kImEndToken);
  }
  header.pad_id = tokenizer.pad_id();
  header.bos_id = tokenizer.bos_id().value_or(-1);
  header.eos_id = tokenizer.eos_id().value_or(-1);
  header.use_mm_start_end = config.use_mm_start_end.value();
  header.seed = config.seed;
  header.made_by = fmt::format("tessera {} prepare {}", version_string(), content_settings(config));
  return header;
}

void check_settings(const PrepareConfig& config) {
  if (config.version.empty()) throw RequestError("--version: name the model folder whose tokenizer is to be used");
  if (config.output_dir.empty() && !config.check) throw RequestError("--output_dir: name the folder for the shards");
  // The families llava and own name their folders themselves.
  const bool elsewhere = !config.data_path.empty() || !config.own_data.empty();
  if (!elsewhere && !fs::is_directory(config.dataset_dir)) {
    throw RequestError("--dataset_dir: no folder '{}'", config.dataset_dir);
  }
  if (config.dataset.empty() && config.val_dataset.empty()) {
    throw RequestError("--dataset and --val_dataset are both empty: nothing to prepare");
  }
  if (config.explanatory > 1) throw RequestError("--explanatory {}: a probability is at most 1", config.explanatory);
}

Work plan_work(const PrepareConfig& config) {
  auto tokenizer = text::load_tokenizer(config.version, tokenizer_rules(config));
  auto header = make_header(config, tokenizer);
  Work work{std::move(tokenizer), &text::find_template(config.conv_type), std::move(header), {}};
  work.splits.push_back({"train", config.draws, training_readers(config), {}});
  work.splits.push_back({"val", 1, validation_readers(config), {}});
  const auto settings = fmt::format("format {}.{} {} tokenizer {}", kFormatMajor, kFormatMinor, work.header.made_by,
                                    work.header.tokenizer_hash);
  for (auto& split : work.splits) {
    split.shards = plan_shards(split.name, group_by_image(config.dataset_dir, split.readers), config.shard_mib * kMiB,
                               settings, split.readers);
    if (!split.readers.empty() && split.shards.empty()) {
      throw RequestError("the data sets of split '{}' hold no item at all; look at --dataset_dir '{}'", split.name,
                         config.dataset_dir);
    }
  }
  return work;
}

/// One shard to make: rank `index % ranks` makes it.
struct Task {
  const Split* split;
  const PlannedShard* shard;
};

class Preparation {
 public:
  Preparation(const PrepareConfig& config, const Work& work, comm::Communicator& comm, const Log& log)
      : config_(config), work_(work), comm_(comm), log_(log) {}

  PrepareOutcome run(const std::string& command_line) {
    outcome_.manifest.complete = false;
    outcome_.manifest.made_by = work_.header.made_by;
    outcome_.manifest.command_line = command_line;
    outcome_.manifest.tokenizer_hash = work_.header.tokenizer_hash;
    comm::on_every_rank(comm_, [&] { note_heads(); });
    if (!config_.check) comm::on_rank_zero(comm_, [&] { claim_folder(); });
    auto tasks = list_tasks();
    std::vector<ShardSummary> mine;
    start_progress(tasks);
    comm::on_every_rank(comm_, [&] {
      for (std::size_t i = 0; i < tasks.size(); ++i) {
        if (is_mine(i)) mine.push_back(make(tasks[i]));
      }
    });
    progress_.reset();
    collect(tasks, mine);
    report();
    finish(tasks);
    return std::move(outcome_);
  }

 private:
  fs::path folder() const { return config_.output_dir; }
  /// Where a shard lies until all is known to be well; without --strict at once under its final name.
  fs::path written_path(const PlannedShard& shard) const {
    return folder() / (config_.strict ? shard.name + ".unpublished" : shard.name);
  }

  /// Rank 0 shows its own images, which stand for those of the other ranks.
  void start_progress(const std::vector<Task>& tasks) {
    std::int64_t images = 0;
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      if (is_mine(i)) images += static_cast<std::int64_t>(tasks[i].shard->units.size());
    }
    ProgressSettings settings;
    settings.style = config_.quiet ? ProgressStyle::silent : progress_style(comm_.rank());
    settings.unit = "images";
    progress_.emplace("prepare", images, settings);
  }

  bool is_mine(std::size_t task) const {
    return static_cast<int>(task % static_cast<std::size_t>(comm_.size())) == comm_.rank();
  }

  /// What an earlier run's manifest says of its shards' beginnings.
  void note_heads() {
    const auto path = folder() / kManifestName;
    if (config_.check || !fs::exists(path)) return;
    for (const auto& shard : read_manifest(path).shards) {
      if (!shard.head.empty()) heads_before_.emplace(shard.name, shard.head);
    }
  }

  /// Refuses a folder that holds something else, and marks it as unfinished.
  void claim_folder() {
    make_directories(folder());
    std::set<std::string> planned;
    for (const auto& split : work_.splits) {
      for (const auto& shard : split.shards) planned.insert(shard.name);
    }
    for (const auto& path : list_files(folder(), {".h5"})) {
      if (!planned.contains(path.filename().string())) refuse_folder(path);
    }
    const auto manifest_path = folder() / kManifestName;
    if (fs::exists(manifest_path) && read_manifest(manifest_path).made_by != work_.header.made_by)
      refuse_folder(manifest_path);
    // Under --strict nothing gets a final name before all is known to be well, not even the mark of an unfinished run.
    if (!config_.strict) write_manifest(manifest_path, outcome_.manifest);
  }

  [[noreturn]] void refuse_folder(const fs::path& found) const {
    throw RequestError("--output_dir '{}' holds '{}' of another preparation; name another folder, or empty this one",
                       folder().string(), found.filename().string());
  }

  std::vector<Task> list_tasks() const {
    std::vector<Task> tasks;
    for (const auto& split : work_.splits) {
      for (const auto& shard : split.shards) tasks.push_back({&split, &shard});
    }
    return tasks;
  }

  /// The summary of a shard that an earlier run has made of the same plan; nothing when there is none.
  std::optional<ShardSummary> kept(const PlannedShard& shard) const {
    if (config_.check) return {};
    for (const auto& path : {folder() / shard.name, written_path(shard)}) {
      if (!fs::exists(path)) continue;
      try {
        if (const auto head = heads_before_.find(path.filename().string());
            head != heads_before_.end() && head->second != head_hash(path)) {
          throw RequestError("shard '{}' is not what was written", path.string());
        }
        const ShardFile file(path);
        if (file.header().plan == shard.fingerprint) return summarise(file, path, shard.name);
      } catch (const RequestError& error) {
        log_.warn("{}; it is made again", error.what());
      }
    }
    return {};
  }

  ShardSummary make(const Task& task) {
    if (auto summary = kept(*task.shard)) {
      summary->kept = true;
      advance(static_cast<std::int64_t>(task.shard->units.size()));
      return *summary;
    }
    auto data = build(task);
    if (config_.check) return summarise(data, task.split->name, task.shard->name);
    auto header = work_.header;
    header.split = task.split->name;
    header.plan = task.shard->fingerprint;
    const auto path = written_path(*task.shard);
    write_shard(path, header, data);
    return summarise(ShardFile(path), path, task.shard->name);
  }

  void advance(std::int64_t images) {
    images_done_ += images;
    progress_->update(images_done_);
  }

  ShardData build(const Task& task) {
    UnitBuilder builder;
    builder.readers = &task.split->readers;
    builder.tokenizer = &work_.tokenizer;
    builder.form = work_.form;
    builder.encoding.recipe = config_.recipe == "lisa" ? text::Recipe::lisa : text::Recipe::llava;
    builder.encoding.max_length = config_.model_max_length.value();
    builder.encoding.truncate = false;
    builder.use_start_end = config_.use_mm_start_end.value();
    builder.seg_token_id = work_.header.seg_token_id;
    builder.seed = static_cast<std::uint64_t>(config_.seed);
    builder.draws = task.split->draws;

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

  /// Summaries of all ranks, in the order of the plan.
  void collect(const std::vector<Task>& tasks, const std::vector<ShardSummary>& mine) {
    nlohmann::json list = nlohmann::json::array();
    for (const auto& summary : mine) list.push_back(to_json(summary));
    std::map<std::string, ShardSummary> by_name;
    for (const auto& text :
         comm::gather_texts(comm_, list.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))) {
      for (const auto& entry : nlohmann::json::parse(text)) {
        auto summary = shard_summary(entry);
        by_name.emplace(summary.entry.name, std::move(summary));
      }
    }
    auto& manifest = outcome_.manifest;
    for (const auto& task : tasks) {
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

  void publish(const std::vector<Task>& tasks) {
    const auto manifest_path = folder() / kManifestName;
    if (config_.strict) {
      write_manifest(manifest_path, outcome_.manifest);
      for (const auto& task : tasks) {
        if (const auto path = written_path(*task.shard); fs::exists(path))
          fs::rename(path, folder() / task.shard->name);
      }
      sync_directory(folder());
    }
    outcome_.manifest.complete = true;
    write_manifest(manifest_path, outcome_.manifest);
  }

  void withdraw(const std::vector<Task>& tasks) const {
    std::error_code ignored;
    for (const auto& task : tasks) fs::remove(written_path(*task.shard), ignored);
    if (!config_.strict) fs::remove(folder() / kManifestName, ignored);  // under --strict it is not this run's
    fs::remove(folder(), ignored);                                       // only when it is empty
  }

  void finish(const std::vector<Task>& tasks) {
    const auto& skipped = outcome_.manifest.skipped;
    const bool refused = config_.strict && !skipped.empty();
    std::int64_t samples = 0;
    for (const auto& shard : outcome_.manifest.shards) samples += shard.samples;
    if (!config_.check) {
      comm::on_rank_zero(comm_, [&] { refused || samples == 0 ? withdraw(tasks) : publish(tasks); });
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
  PrepareOutcome outcome_;
  std::optional<Progress> progress_;
  std::int64_t images_done_ = 0;
  std::map<std::string, std::string> heads_before_;  ///< by shard
};

}  // namespace

void bind(Options& options, PrepareConfig& config) {
  const std::string data = "Data sets";
  options.add("dataset_dir", &config.dataset_dir, "folder of the data sets, in LISA's layout", {.group = data});
  options.add("dataset", &config.dataset,
              "families of training data, as sem_seg||refer_seg||vqa||reason_seg||llava||own; auto: those whose files "
              "are there; empty: none",
              {.group = data});
  options.add("reason_seg_data", &config.reason_seg_data,
              "ReasonSeg set and splits for training, as ReasonSeg|train or ReasonSeg|train_val", {.group = data});
  options.add("sem_seg_data", &config.sem_seg_data, "semantic sets for training, separated by ||", {.group = data});
  options.add("part_union", &config.part_union,
              "PACO-LVIS and Pascal-Part: the mask of a class is the union of its instances; the reference takes the "
              "one it drew",
              {.group = data});
  options.add("refer_seg_data", &config.refer_seg_data, "referring sets for training, separated by ||",
              {.group = data});
  options.add("vqa_data", &config.vqa_data, "LLaVA dialogues for training, a file of llava_dataset/ without .json",
              {.group = data});
  options.add("data_path", &config.data_path, "conversation files (JSON) of the family llava, separated by ||",
              {.group = data});
  options.add("image_folder", &config.image_folder,
              "folder of their images, or one for each file, separated by ||; empty: where the file lies",
              {.group = data});
  options.add("own_data", &config.own_data, "folders of one's own data (family own), separated by ||", {.group = data});
  options.add("val_dataset", &config.val_dataset,
              "set and split for validation, as ReasonSeg|val, or own|FOLDER; auto: ReasonSeg|val where it is there; "
              "empty: none",
              {.group = data});
  options.add("explanatory", &config.explanatory,
              "probability that an explanation alone answers, where there is one; -1: no explanations",
              {.group = data});
  options.add("num_classes_per_sample", &config.num_classes_per_sample,
              "conversations about one image in a sample, at most", {.group = data, .min = 1});
  options.add("polygon_slack", &config.polygon_slack, "how far a polygon may reach beyond its image",
              {.group = data, .unit = "pixels", .min = 0});
  const std::string text = "Text";
  options.add("version", &config.version, "model folder whose tokenizer is used", {.group = text});
  options.add("conv_type", &config.conv_type, "conversation template", {.group = text});
  options.add("recipe", &config.recipe,
              "whose rules make the labels; lisa: one image a conversation, masks; llava: any number of images, no "
              "masks; auto: llava where --dataset asks for llava alone",
              {.group = text, .choices = {"auto", "lisa", "llava"}});
  options.add("model_max_length", &config.model_max_length,
              "length up to which the reference checks a text's tokens against its labels; default 512, with recipe "
              "llava 2048",
              {.group = text, .unit = "tokens", .min = 1});
  options.add("use_mm_start_end", &config.use_mm_start_end,
              "put <im_start> and <im_end> around the image; default true, with recipe llava false", {.group = text});
  const std::string output = "Output";
  options.add("output_dir", &config.output_dir, "folder for the shards and their manifest", {.group = output});
  options.add("shard_mib", &config.shard_mib, "size of a shard", {.group = output, .unit = "MiB", .min = 1});
  options.add("draws", &config.draws, "random variants of a training item that are written, so that epochs differ",
              {.group = output, .min = 1});
  options.add("seed", &config.seed, "of the random choices", {.group = output});
  options.add("workers", &config.workers, "threads of a rank that read, check and tokenise",
              {.group = output, .min = 1});
  options.add("quiet", &config.quiet, "no progress bar", {.group = output});
  options.add("strict", &config.strict, "a broken sample ends the run with status 2, and nothing is written",
              {.group = output});
  options.add("check", &config.check, "read and check everything, write nothing", {.group = output});
}

PrepareOutcome run_prepare(const PrepareConfig& config, comm::Communicator& comm, const Log& log,
                           const std::string& command_line) {
  std::optional<Work> work;
  PrepareConfig found;
  comm::on_every_rank(comm, [&] {
    check_settings(config);
    std::vector<std::string> left_out;
    found = with_sets_found(config, left_out);
    for (const auto& set : left_out) log.info("left out: {}", set);
    work.emplace(plan_work(found));
  });
  return Preparation(found, *work, comm, log).run(command_line);
}

}  // namespace tessera::data
