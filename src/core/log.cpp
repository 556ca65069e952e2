#include "tessera/core/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <string>

namespace tessera {

Log::Log(int rank, int size, bool verbose, bool quiet) : rank_(rank) {
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  sink_ = std::make_shared<spdlog::logger>("tessera", std::move(sink));
  sink_->set_pattern(size > 1 && rank != 0 ? fmt::format("[rank {}/{}] %v", rank, size) : "%v");
  const bool speaks = rank == 0 && !quiet;
  sink_->set_level(!speaks ? spdlog::level::warn : verbose ? spdlog::level::debug : spdlog::level::info);
  sink_->flush_on(spdlog::level::info);
}

void Log::write(Level level, std::string_view text) const {
  if (!sink_) return;
  switch (level) {
    case Level::debug:
      sink_->debug(text);
      break;
    case Level::info:
      sink_->info(text);
      break;
    case Level::warn:
      sink_->warn("warning: {}", text);
      break;
    case Level::error:
      sink_->error("error: {}", text);
      break;
  }
}

}  // namespace tessera
