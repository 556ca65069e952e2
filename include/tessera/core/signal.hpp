#pragma once
/// StopSignal: while it lives, SIGTERM, SIGINT and SIGUSR1 do not end the process but set a flag, so that a run can
/// stop at the next step with a checkpoint. A second SIGINT ends it at once. One at a time: handlers belong to the
/// process.
namespace tessera {

class StopSignal {
 public:
  StopSignal();   ///< throws RunError when one exists already
  ~StopSignal();  ///< the former handlers are back
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;
  bool received() const noexcept;
  int number() const noexcept;  ///< of the first signal, 0 for none
};

}  // namespace tessera
