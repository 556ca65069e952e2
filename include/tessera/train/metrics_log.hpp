#pragma once
/// MetricsLog: `metrics.jsonl`, one JSON object a line and a step. Rank 0 alone owns one.
///
/// A run that goes on from step N keeps the lines up to N and drops later ones, so that the file reads as if the run
/// had never stopped.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace tessera::train {

/// What one optimiser step reports. Losses are weighted and global means; bytes are this rank's.
struct StepMetrics {
  std::int64_t step = 0;
  double loss = 0;
  double ce_loss = 0;
  double mask_bce_loss = 0;
  double mask_dice_loss = 0;
  double mask_loss = 0;
  std::optional<double> orth_reg;    ///< AdaLoRA's regulariser; `loss` has it in, times orth_reg_weight
  std::map<std::string, double> lr;  ///< per group
  double grad_norm = 0;
  bool skipped = false;     ///< the gradient was not finite, nothing was updated
  std::string skip_reason;  ///< the rank and the parameter it was first seen in; empty when only the sum was not finite
  double loss_scale = 1;    ///< fp16: what the loss was multiplied with
  double step_s = 0;
  double data_wait_s = 0;
  double comm_wait_s = 0;
  double save_stall_s = 0;   ///< that checkpoints have held up training since the line before; not in step_s
  std::int64_t tokens = 0;   ///< of the global batch, without padding
  std::int64_t padding = 0;  ///< of the global batch, in tokens: what rows of other lengths cost
  std::int64_t samples = 0;  ///< images of the global batch
  std::int64_t bytes_gathered = 0;
  std::int64_t bytes_reduced = 0;
  std::int64_t peak_bytes = 0;
};

std::string to_json_line(const StepMetrics& metrics);

class MetricsLog {
 public:
  /// Opens `path` for appending after dropping lines of steps above `keep_through`.
  MetricsLog(std::filesystem::path path, std::int64_t keep_through);
  void add(const StepMetrics& metrics);
  /// A validation's figures, as an object with `step` and `val_giou`, `val_ciou`, `val_masks`, or `val_loss`,
  /// `val_tokens`, `val_samples`.
  void add_validation(std::int64_t step, double giou, double ciou, std::int64_t masks);
  void add_validation_loss(std::int64_t step, double loss, std::int64_t tokens, std::int64_t samples);

 private:
  void append(const std::string& line);
  std::filesystem::path path_;
  std::ofstream out_;
};

/// The `step` and one key of every line that has both, e.g. for plots. Throws RequestError naming file and line.
std::vector<std::pair<double, double>> read_series(const std::filesystem::path& path, const std::string& key);

}  // namespace tessera::train
