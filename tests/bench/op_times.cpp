#include "bench/op_times.hpp"

#include <ATen/record_function.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <vector>

namespace tessera::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Open {
  Clock::time_point begin;
  double children = 0;
};

// Record callbacks are plain functions, so what they write to is reached through the thread.
struct Log {
  std::vector<Open> open;
  OpTimesResult result;
};
thread_local Log* log_of_thread = nullptr;

bool is_product(const std::string& name) {
  return name == "aten::mm" || name == "aten::addmm" || name == "aten::bmm" || name == "aten::baddbmm" ||
         name == "aten::addmm_" || name == "aten::mm.out" || name == "aten::_addmm_activation";
}

std::unique_ptr<at::ObserverContext> on_begin(const at::RecordFunction&) {
  if (log_of_thread != nullptr) log_of_thread->open.push_back({Clock::now()});
  return nullptr;
}

void on_end(const at::RecordFunction& function, at::ObserverContext*) {
  Log* log = log_of_thread;
  if (log == nullptr || log->open.empty()) return;
  const Open call = log->open.back();
  log->open.pop_back();
  const double whole = std::chrono::duration<double>(Clock::now() - call.begin).count();
  if (!log->open.empty()) log->open.back().children += whole;
  const std::string name = function.name();
  auto& [seconds, count] = log->result.own[name];
  seconds += whole - call.children;
  ++count;
  if (is_product(name)) log->result.products += whole - call.children;
  if (name.find("scaled_dot_product_flash") != std::string::npos) log->result.attention += whole - call.children;
}

}  // namespace

OpTimes::OpTimes() {
  log_of_thread = new Log;
  handle_ = static_cast<unsigned long>(at::addThreadLocalCallback(at::RecordFunctionCallback(on_begin, on_end)));
}

OpTimesResult OpTimes::stop() {
  if (!running_) return {};
  running_ = false;
  at::removeCallback(handle_);
  const std::unique_ptr<Log> log(log_of_thread);
  log_of_thread = nullptr;
  return std::move(log->result);
}

OpTimes::~OpTimes() {
  stop();
}

void print_top(const OpTimesResult& times, double step_seconds) {
  std::vector<std::pair<std::string, std::pair<double, long>>> all(times.own.begin(), times.own.end());
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.second.first > b.second.first; });
  double inside = 0;
  for (const auto& [name, own] : all) inside += own.first;
  for (std::size_t i = 0; i < std::min<std::size_t>(all.size(), 24); ++i) {
    fmt::print("  {:>8.1f} ms {:>6} x {}\n", 1e3 * all[i].second.first, all[i].second.second, all[i].first);
  }
  fmt::print("  {:>8.1f} ms outside all operations\n", 1e3 * (step_seconds - inside));
}

}  // namespace tessera::bench
