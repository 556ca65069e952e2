#pragma once
/// Errors: what every room throws, and the exit status each one becomes.
///
/// A message names what, where, the offending value and a remedy, e.g.
/// `data: shard 'coco-0007.h5' row 41: 2049 tokens, limit is 2048; prepare again or raise --model_max_length`.
/// Libraries throw; only the program's guard (cli/guard.hpp) prints, tags the rank and exits.
#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace tessera {

/// Exit status of the program.
enum class ExitStatus : int {
  done = 0,
  failed = 1,       ///< the run failed
  bad_request = 2,  ///< flags, files or shapes were wrong; found before any training
  requeue = 75,     ///< stopped on a signal with a checkpoint written (sysexits' EX_TEMPFAIL)
};

class Error : public std::runtime_error {
 public:
  Error(ExitStatus status, const std::string& what) : std::runtime_error(what), status_(status) {}
  ExitStatus status() const noexcept { return status_; }
  /// Every rank throws this same error (comm::agree), so the job can end in order and rank 0 speaks for all.
  bool everywhere() const noexcept { return everywhere_; }
  void mark_everywhere() noexcept { everywhere_ = true; }

 private:
  ExitStatus status_;
  bool everywhere_ = false;
};

/// What the user asked for cannot be done: flags, files, shapes. Exit status 2.
class RequestError : public Error {
 public:
  template <class... Args>
  explicit RequestError(fmt::format_string<Args...> text, Args&&... args)
      : Error(ExitStatus::bad_request, fmt::format(text, std::forward<Args>(args)...)) {}
};

/// The run failed: a full disk, a lost rank, a broken promise between rooms. Exit status 1.
class RunError : public Error {
 public:
  template <class... Args>
  explicit RunError(fmt::format_string<Args...> text, Args&&... args)
      : Error(ExitStatus::failed, fmt::format(text, std::forward<Args>(args)...)) {}
};

/// A collective failed; the text carries rank, operation and what the library said. Exit status 1.
class CommError : public RunError {
  using RunError::RunError;
};

}  // namespace tessera
