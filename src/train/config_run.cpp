// Flags of a run: its folder, its checkpoints, its engine.
#include "train/config_parts.hpp"

namespace tessera::train {

namespace {

void bind_run(Options& o, TrainConfig& c) {
  const OptionInfo run{.group = "Run"};
  const OptionInfo counted{.group = "Run", .min = 0};
  o.add("log_base_dir", &c.log_base_dir, "run folders lie here", run);
  o.add("exp_name", &c.exp_name, "name of this run's folder", run);
  o.add("output_dir", &c.output_dir, "this run's folder itself, in the place of log_base_dir/exp_name", run);
  o.add("resume", &c.resume, "checkpoint folder to go on from, or auto: the newest whole one of this run", run);
  o.add("auto_resume", &c.auto_resume, "go on from this run's newest whole checkpoint if there is one", run);
  o.add("no_eval", &c.no_eval, "no validation", run);
  o.add("eval_only", &c.eval_only, "one validation and exit", run);
  o.add("print_freq", &c.print_freq, "a progress line every that many steps", {.group = "Run", .min = 1});
  o.add("eval_steps", &c.eval_steps, "a validation every that many steps; 0: at the end of each epoch", counted);
  o.add("save_steps", &c.save_steps, "a checkpoint every that many steps; 0: at the end of each epoch", counted);
  o.add("save_total_limit", &c.save_total_limit, "checkpoints kept besides the best; 0: all", counted);
  o.add("async_save", &c.async_save,
        "write checkpoints from a copy in host memory while the next steps run; false: write first, then go on", run);
  o.add("vis_samples", &c.vis_samples, "overlays written by the last validation", {.group = "Run", .min = 0});
  o.add("export_merged", &c.export_merged, "write the merged model folder at the end", run);
}

void bind_engine(Options& o, TrainConfig& c) {
  const OptionInfo engine{.group = "Engine"};
  bind(o, c.engine);
  o.add("trace", &c.trace,
        "file for a timeline of all ranks in Chrome's trace format, which Perfetto opens; empty: none", engine);
  o.add("comm_timeout_s", &c.comm_timeout_s, "end the job when a collective takes longer",
        {.group = "Engine", .unit = "s", .min = 1});
}

}  // namespace

void bind_run_flags(Options& o, TrainConfig& c) {
  bind_run(o, c);
  bind_engine(o, c);
}

}  // namespace tessera::train
