#include "tessera/train/trainer.hpp"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "tessera/comm/agree.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/signal.hpp"
#include "tessera/core/trace.hpp"
#include "tessera/shard/checkpoint.hpp"
#include "tessera/shard/checkpoint_writer.hpp"
#include "tessera/train/export.hpp"
#include "tessera/train/machine.hpp"
#include "tessera/train/model_setup.hpp"
#include "tessera/train/param_groups.hpp"
#include "tessera/train/run_plots.hpp"
#include "tessera/train/schedule.hpp"
#include "tessera/train/step.hpp"
#include "train/resume_check.hpp"
#include "train/run_log.hpp"
#include "train/run_report.hpp"
#include "train/stored_features.hpp"
#include "train/validation.hpp"

namespace tessera::train {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::optional<AdaLora> adalora_of(LoadedModel& model) {
  if (!model.lora || !model.lora->config.adalora) return std::nullopt;
  return std::optional<AdaLora>(std::in_place, *model.engine, *model.lora);
}

TrainConfig config_of(const TrainRequest& request) {
  TrainConfig out = request.train;
  out.model_max_length = request.loader.model_max_length;
  return out;
}

class Trainer {
 public:
  Trainer(const TrainRequest& request, const comm::Fabric& fabric, c10::Device device, const Log& log)
      : request_(request),
        config_(config_of(request)),
        fabric_(fabric),
        log_(log),
        folder_(config_.run_dir()),
        device_(device),
        model_(load_model(config_, fabric, device, request.seed, true, log,
                          [this](LoadedModel& model) { return open_shards(model); })),
        loader_(comm::made_everywhere(*fabric.control,
                                      [&] {
                                        return std::make_unique<data::Loader>(
                                            request.loader,
                                            features_.for_training(model_.input_spec(request.loader.model_max_length)),
                                            *shards_, request.order_seed(), fabric.rank(), fabric.size());
                                      })),
        groups_(param_groups(*model_.recipe, *model_.layout, config_)),
        optimizer_(*model_.engine, optimizer_of(config_), groups_.groups, groups_.group_of),
        adalora_(adalora_of(model_)),
        scaler_(model_.engine->config().compute == shard::ComputeType::f16),
        writer_(*model_.engine, optimizer_, model_.frozen_digest, {.background = config_.async_save}),
        run_log_(config_, log, fabric.rank()),
        validation_(request, model_, features_, fabric_, log_, run_log_) {
    features_.check(*model_.layout, *model_.recipe, *fabric.control);
    settle_lengths(config_, loader_->epoch_samples(), loader_->shape().images());
  }

  ExitStatus run() {
    report_memory();
    start_or_resume();
    open_run_folder();
    if (config_.eval_only) {
      validate_now();
      return ExitStatus::done;
    }
    start_trace();
    const StopSignal signals;
    run_log_.start(step_);
    while (step_ < config_.total_steps() && !validation_.best().should_stop()) {
      one_step();
      if (const auto saved = writer_.poll()) report_saved(*saved);
      const bool last = step_ == config_.total_steps();
      const bool stop = any_rank(signals.received());
      const bool best = validation_ && due(config_.eval_steps) && validate_now();
      const bool due_now = due(config_.save_steps) || validation_.best().should_stop();
      save((due_now && config_.reference.save_strategy != "no") || stop, best);
      if (stop && !last) {
        finish_saving();
        close_measurements();
        log_.info("stopped by a signal after step {}; run again with --resume auto to go on", step_);
        return ExitStatus::requeue;
      }
    }
    run_log_.end();
    finish_saving();
    close_measurements();
    if (validation_.best().should_stop()) log_.info("stopped early at step {}: {}", step_, validation_.best().why());
    finish();
    return ExitStatus::done;
  }

 private:
  // Something done every so many steps, or at the end of each epoch, and at the end.
  bool due(std::int64_t every) const {
    return step_ % (every > 0 ? every : config_.steps_per_epoch) == 0 || step_ == config_.total_steps();
  }
  bool speaks() const { return fabric_.rank() == 0; }
  fs::path checkpoints() const { return folder_ / "checkpoints"; }

  bool any_rank(bool mine) const {
    std::int64_t flag = mine ? 1 : 0;
    fabric_.control->all_reduce({&flag, 1, comm::DType::i64}, comm::ReduceOp::max);
    return flag != 0;
  }

  void report_memory() {
    const auto warmup = schedule_of(config_).warmup_steps;
    if (warmup >= config_.total_steps() && config_.lr_scheduler_type != "constant" && !config_.eval_only) {
      log_.warn("--warmup_steps {} is not below the {} steps of this run: the learning rate never reaches --lr", warmup,
                config_.total_steps());
    }
    log_.info("model: {} parameters, {} trained; {} ranks, {} images a step in {} micro-batches",
              model_.layout->total_elements(), model_.layout->trainable_elements(), fabric_.size(),
              loader_->shape().images(), loader_->shape().micro_batches);
    log_plan(log_, model_.plan, fabric_.size());
  }

  // The largest micro-batch that the shards can give, for the plan.
  BatchShape open_shards(LoadedModel& model) {
    const auto& loader = request_.loader;
    shards_.emplace(data::Shards::open(loader.shards, "train",
                                       {model.tokenizer.content_hash(), config_.reference.conv_type, config_.recipe}));
    const auto validation = validation_shards(request_, model);
    features_ =
        StoredFeatures(loader, *model.recipe, *model.layout, *shards_, validation ? &*validation : nullptr, log_);
    const auto steps = data::step_shape(loader, fabric_.rank(), fabric_.size());
    return batch_shape(*shards_, steps.batch_size, model.input_spec(loader.model_max_length), steps.own(),
                       loader.prefetch_mib << 20);
  }

  void start_trace() {
    if (config_.trace.empty()) return;
    constexpr std::size_t kSpans = 1'000'000;  // of all ranks: the file is to stay readable
    fabric_.control->barrier();
    trace_.emplace(TraceLog::Clock::now(), kSpans / static_cast<std::size_t>(fabric_.size()));
    model_.engine->set_trace(&*trace_);
  }

  void close_measurements() {
    if (config_.eval_only) return;
    log_outcome(log_, model_.plan, {model_.engine->memory(), peak_memory_in_use(device_), loader_->peak_bytes()},
                figures_);
    if (!trace_) return;
    model_.engine->set_trace(nullptr);
    write_trace(config_.trace, *trace_, *fabric_.control, log_);
  }

  // The newest whole checkpoint of this run, or the one asked for; empty to start anew.
  fs::path checkpoint_to_resume() const {
    for (const auto& root : {checkpoints(), folder_ / "best"}) shard::tidy_checkpoints(root);
    if (!config_.resume.empty() && config_.resume != "auto") return config_.resume;
    if (config_.resume.empty() && !config_.auto_resume) return {};
    const auto all = shard::list_checkpoints(checkpoints());
    return all.empty() ? fs::path() : all.back();
  }

  // What rank 0 finds, on every rank.
  template <class Find>
  fs::path found_by_rank_zero(Find find) {
    fs::path found;
    comm::on_every_rank(*fabric_.control, [&] {
      if (speaks()) found = find();
    });
    return comm::broadcast_text(*fabric_.control, found.string());
  }

  void start_or_resume() {
    const auto from = found_by_rank_zero([this] { return checkpoint_to_resume(); });
    if (from.empty()) return;
    const auto info = shard::load_checkpoint(from, *model_.engine, optimizer_, model_.frozen_digest);
    const auto state = nlohmann::json::parse(info.trainer_state);
    check_same_stream(from, state, {loader_->shape().images(), request_.seed, request_.order_seed()});
    check_same_threshold(from, state, model_.plan.engine.quantization);
    step_ = info.step;
    validation_.restore(state);
    scaler_.restore(state.value("loss_scale", scaler_.scale()), state.value("loss_scale_steps", std::int64_t{0}));
    if (adalora_) adalora_->restore(state.value("adalora", std::string()));
    loader_->seek(step_);
    log_.info("going on from {} at step {} (written by {} ranks)", from.string(), step_, info.ranks);
  }

  void open_run_folder() {
    comm::on_rank_zero(*fabric_.control, [&] {
      make_directories(checkpoints());
      write_file(folder_ / "config.toml", request_.config_toml);
      run_log_.open(folder_, step_);
    });
  }

  void one_step() {
    const auto start = Clock::now();
    const std::int64_t step = step_ + 1;
    auto batches = loader_->next();
    if (trace_) trace_->add(TraceLog::Row::wait, "data", start, Clock::now());
    std::vector<Batch> micro;
    for (auto& m : batches.micro) {
      config_.recipe == "llava" ? micro.emplace_back(std::move(m.llava)) : micro.emplace_back(std::move(m.batch));
    }
    const double factor = learning_rate_factor(schedule_of(config_), step);
    for (std::size_t g = 0; g < groups_.groups.size(); ++g) optimizer_.groups()[g].lr = groups_.groups[g].lr * factor;

    const auto before = traffic();
    StepConfig step_config;
    step_config.weights = {config_.ce_loss_weight, config_.bce_loss_weight, config_.dice_loss_weight};
    step_config.global_normalization = config_.loss_normalization == "global";
    step_config.max_grad_norm = config_.max_grad_norm;
    step_config.seed = request_.seed;
    step_config.trace = trace_ ? &*trace_ : nullptr;
    step_config.adalora = adalora_ ? &*adalora_ : nullptr;
    auto metrics = run_step(*model_.recipe, *model_.engine, optimizer_, micro, step, step_config, scaler_);
    const auto after = traffic();
    metrics.bytes_gathered = after.first - before.first;
    metrics.bytes_reduced = after.second - before.second;
    for (const auto& group : optimizer_.groups()) metrics.lr[group.name] = group.lr;
    metrics.data_wait_s = batches.data_wait_s;
    metrics.save_stall_s = writer_.take_stall();
    metrics.comm_wait_s = model_.engine->take_comm_wait();
    metrics.peak_bytes = peak_memory_in_use(device_);
    metrics.step_s = seconds_since(start);
    if (trace_) trace_->add(TraceLog::Row::step, fmt::format("step {}", step), start, Clock::now());
    figures_.add(metrics.step_s, metrics.comm_wait_s, metrics.bytes_gathered, metrics.bytes_reduced);
    figures_.add_tokens(metrics.tokens, metrics.padding);
    step_ = step;
    run_log_.step(metrics);
  }

  std::pair<std::int64_t, std::int64_t> traffic() const {
    auto sent = [](const comm::Communicator& c, std::string_view kind) {
      const auto found = c.counters().find(kind);
      return found == c.counters().end() ? std::int64_t{0} : found->second.sent;
    };
    const auto in_node = fabric_.node_gather != nullptr ? sent(*fabric_.node_gather, "all_gather") : std::int64_t{0};
    return {sent(*fabric_.gather, "all_gather") + in_node, sent(*fabric_.reduce, "reduce_scatter")};
  }

  bool validate_now() {  // true when it is the best so far
    const bool last = step_ == config_.total_steps() || config_.eval_only;
    const auto averages = averaged_for("eval");
    return validation_.run(step_, last ? folder_ / "overlays" : fs::path());
  }

  std::unique_ptr<shard::AveragedWeights> averaged_for(std::string_view use) {
    return shard::averages_of(*model_.engine, optimizer_, config_.optimization.averages_for(use));
  }

  std::string trainer_state() const {
    nlohmann::json state{{"seed", request_.seed},
                         {"data_seed", request_.order_seed()},
                         {"images_per_step", loader_->shape().images()},
                         {"loss_scale", scaler_.scale()},
                         {"loss_scale_steps", scaler_.sound_steps()}};
    validation_.put_state(state);
    if (adalora_) state["adalora"] = adalora_->state();
    const auto& quantised = model_.plan.engine.quantization;
    if (quantised.kind == QuantKind::int8) state["llm_int8_threshold"] = quantised.threshold;
    return state.dump();
  }

  // One save for both places: the files of `best/` are the same ones under a second name.
  void save(bool due, bool best) {
    std::vector<shard::CheckpointPlace> places;
    if (due) places.push_back({checkpoints(), config_.save_total_limit});
    if (best) places.push_back({folder_ / "best", 1});
    if (places.empty()) return;
    for (const auto& saved : writer_.begin(step_, trainer_state(), places)) report_saved(saved);
  }

  void finish_saving() {
    if (const auto saved = writer_.finish()) report_saved(*saved);
  }

  void report_saved(const shard::SavedCheckpoint& saved) {
    run_log_.clear_bar();
    for (const auto& folder : saved.folders) {
      log_.info("checkpoint {}: {:.1f} MiB written in {:.2f} s, known to be whole {:.2f} s after its step",
                folder.string(), static_cast<double>(saved.bytes) / 1048576.0, saved.write_s, saved.known_s);
    }
  }

  // The weights of the best validation in the place of the last step's, for what is written out.
  void take_best() {
    const auto best = found_by_rank_zero([this]() -> fs::path {
      const auto all = shard::list_checkpoints(folder_ / "best");
      return all.empty() ? fs::path() : all.back();
    });
    if (best.empty()) {  // no validation had a number
      log_.warn("--load_best_model_at_end: no validation was the best; the last step's weights are written out");
      return;
    }
    const auto info = shard::load_checkpoint(best, *model_.engine, optimizer_, model_.frozen_digest);
    if (adalora_) adalora_->restore(nlohmann::json::parse(info.trainer_state).value("adalora", std::string()));
    log_.info("what is written out is {}, with {} {:.4f}", best.string(), validation_.best().config().metric,
              validation_.best().best().value_or(0));
  }

  void finish() {
    if (config_.optimization.load_best_model_at_end) take_best();
    const auto averages = averaged_for("export");
    if (model_.lora) export_adapter(model_, config_.version, folder_ / "adapter", config_.precision);
    if (model_.prefix) export_prefix(model_, config_.version, folder_ / "prefix");
    if (config_.tune_mm_mlp_adapter) {
      export_projector(model_, folder_);
    } else {
      export_other_trained(model_, model_.lora ? folder_ / "adapter" : folder_);
    }
    if (config_.export_merged) export_merged(model_, folder_ / "merged", config_.precision, log_);
    comm::on_rank_zero(*fabric_.control, [&] { plot_run(folder_); });
    log_.info("done: {} steps, results in {}", step_, folder_.string());
  }

  const TrainRequest& request_;
  TrainConfig config_;  // with the lengths that the data gives it
  comm::Fabric fabric_;
  Log log_;
  fs::path folder_;
  c10::Device device_;
  std::optional<data::Shards> shards_;
  StoredFeatures features_;
  std::optional<TraceLog> trace_;  // outlives the engine, which writes into it
  StepFigures figures_;
  LoadedModel model_;
  std::unique_ptr<data::Loader> loader_;
  ParamGroups groups_;  // with the peaks of their rates
  shard::Optimizer optimizer_;
  std::optional<AdaLora> adalora_;
  LossScaler scaler_;
  shard::CheckpointWriter writer_;
  RunLog run_log_;
  Validation validation_;
  std::int64_t step_ = 0;
};

}  // namespace

ExitStatus run_training(const TrainRequest& request, const comm::Fabric& fabric, c10::Device device, const Log& log) {
  validate(request.train);
  Trainer trainer(request, fabric, device, log);
  return trainer.run();
}

}  // namespace tessera::train
