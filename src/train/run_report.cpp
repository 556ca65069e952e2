#include "train/run_report.hpp"

#include <algorithm>

#include "tessera/comm/agree.hpp"
#include "tessera/core/file.hpp"

namespace tessera::train {

namespace {

double median(std::vector<double> values) {
  if (values.size() > 1) values.erase(values.begin());
  std::sort(values.begin(), values.end());
  return values.empty() ? 0.0 : values[values.size() / 2];
}

double mib(std::int64_t bytes) {
  return static_cast<double>(bytes) / 1048576.0;
}

double percent(std::int64_t predicted, std::int64_t measured) {
  return measured > 0 ? 100.0 * static_cast<double>(predicted - measured) / static_cast<double>(measured) : 0.0;
}

}  // namespace

void StepFigures::add(double step_s, double comm_wait_s, std::int64_t gathered, std::int64_t reduced) {
  seconds_.push_back(step_s);
  waits_.push_back(comm_wait_s);
  gathered_ = gathered;
  reduced_ = reduced;
}

double StepFigures::step_s() const {
  return median(seconds_);
}
double StepFigures::comm_wait_s() const {
  return median(waits_);
}
std::int64_t StepFigures::gathered() const {
  return gathered_;
}
std::int64_t StepFigures::reduced() const {
  return reduced_;
}
void StepFigures::add_tokens(std::int64_t tokens, std::int64_t padding) {
  tokens_ += tokens;
  padding_ += padding;
}
double StepFigures::padding_share() const {
  return static_cast<double>(padding_) / static_cast<double>(std::max<std::int64_t>(1, tokens_ + padding_));
}

void log_plan(const Log& log, const shard::RunPlan& p, int ranks) {
  const auto& m = p.plan.memory;
  log.info(
      "memory per rank: {:.2f} MiB of parameters, gradients and optimiser states (1/{} of {:.2f} MiB), at most "
      "{:.2f} MiB gathered by plan",
      mib(m.sharded()), ranks, mib(p.plan.whole_state), mib(m.gathered_peak));
  log.info("traffic per rank and step by plan: {:.2f} MiB gathered, {:.2f} MiB reduced",
           mib(p.plan.gathered_sent + p.plan.node_sent), mib(p.plan.reduced_sent));
  log.info(
      "peak of a rank by plan: {:.0f} MiB = {:.0f} process + {:.0f} states + {:.0f} gathered + {:.0f} activations + "
      "{:.0f} batches + {:.0f} of a checkpoint's copy; a step of about {:.3f} s",
      mib(p.memory.total()), mib(p.memory.baseline),
      mib(p.memory.frozen + p.memory.master + p.memory.gradients + p.memory.optimizer + p.memory.average),
      mib(p.memory.gathered), mib(p.memory.activations), mib(p.memory.batches), mib(p.memory.snapshot), p.time.step);
}

void log_outcome(const Log& log, const shard::RunPlan& p, const Measured& measured, const StepFigures& steps) {
  auto line = [&](const char* what, std::int64_t predicted, std::int64_t found) {
    log.info("  {:<24} {:>12.2f} {:>12.2f} MiB  ({:+.1f} %)", what, mib(predicted), mib(found),
             percent(predicted, found));
  };
  log.info("predicted beside measured, per rank");
  line("frozen weights", p.plan.memory.frozen, measured.memory.frozen);
  line("masters", p.plan.memory.master, measured.memory.master);
  line("gradients", p.plan.memory.gradients, measured.memory.gradients);
  line("optimiser states", p.plan.memory.optimizer, measured.memory.optimizer);
  if (p.plan.memory.average > 0) line("average of weights", p.plan.memory.average, measured.memory.average);
  line("gathered at most", p.plan.memory.gathered_peak, measured.memory.gathered_peak);
  line("batches read ahead", p.memory.read_ahead, measured.batches);
  line("peak", p.memory.total(), measured.peak);
  if (steps.empty()) return;
  line("gathered in a step", p.plan.gathered_sent + p.plan.node_sent, steps.gathered());
  line("reduced in a step", p.plan.reduced_sent, steps.reduced());
  log.info("  {:<24} {:>12.3f} {:>12.3f} s", "step", p.time.step, steps.step_s());
  log.info("  {:<24} {:>12.3f} {:>12.3f} s", "of it communication", p.time.gather + p.time.node_gather + p.time.reduce,
           steps.comm_wait_s());
  log.info("padding: {:.1f} % of the text positions of all steps", 100 * steps.padding_share());
}

void write_trace(const std::filesystem::path& path, const TraceLog& mine, comm::Communicator& control, const Log& log) {
  const auto events = comm::gather_texts(control, mine.events(control.rank()));
  comm::on_rank_zero(control, [&] { write_file(path, TraceLog::document(events)); });
  log.info("timeline of {} ranks written to {}{}", control.size(), path.string(),
           mine.dropped() > 0 ? "; its end is missing, the run had too many spans" : "");
}

}  // namespace tessera::train
