#pragma once
/// Plots of a run folder: losses.png and, where there were validations, validation.png, from metrics.jsonl.
#include <filesystem>

namespace tessera::train {

/// Throws RunError or RequestError naming the file. Not collective.
void plot_run(const std::filesystem::path& run_dir);

}  // namespace tessera::train
