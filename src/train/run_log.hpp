#pragma once
// RunLog: what a run says of its steps while it runs: metrics.jsonl, TensorBoard events, the bar or the lines of the
// log.
#include <filesystem>
#include <optional>

#include "tessera/core/log.hpp"
#include "tessera/core/progress.hpp"
#include "tessera/train/config.hpp"
#include "tessera/train/metrics_log.hpp"
#include "tessera/train/tensorboard.hpp"

namespace tessera::train {

class RunLog {
 public:
  // `config` outlives it.
  RunLog(const TrainConfig& config, const Log& log, int rank) : config_(config), log_(log), rank_(rank) {}

  // Rank 0 alone: the files, cut back to `step` where a run goes on.
  void open(const std::filesystem::path& folder, std::int64_t step);
  // On a terminal one bar that redraws itself; in a job's log a line every print_freq steps.
  void start(std::int64_t step);
  // Of every rank. Throws RunError after --max_skipped_steps steps in a row without an update.
  void step(const StepMetrics& metrics);
  void validation(std::int64_t step, double giou, double ciou, std::int64_t masks);
  void validation_loss(std::int64_t step, double loss, std::int64_t tokens, std::int64_t samples);
  void clear_bar();  // before anything else is printed
  void end() { bar_.reset(); }

 private:
  void record(const StepMetrics& metrics);
  void count_skipped(const StepMetrics& metrics);

  const TrainConfig& config_;
  Log log_;
  int rank_;
  std::optional<MetricsLog> metrics_;
  std::optional<TensorBoardWriter> events_;
  std::optional<Progress> bar_;
  std::int64_t skipped_ = 0;
};

}  // namespace tessera::train
