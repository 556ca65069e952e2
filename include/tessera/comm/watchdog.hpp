#pragma once
/// Watchdog: ends a job in which a collective does not finish, and says who waits for whom.
///
/// A thread on every rank looks at the age of the oldest unfinished collective in the flight ring (MPI and NCCL alike)
/// and answers the other ranks' questions over a communicator of its own. Over the limit it asks every rank and builds
/// a report such as
///   watchdog: rank 0 has waited 600 s for gather: all_gather of 8192 bf16, sequence 812
///     rank 0: in 'forward', waits 600 s for gather: all_gather …, sequence 812; finished reduce: …, sequence 40, 601 s
///     ago rank 1: in 'loading data' for 641 s, nothing unfinished; finished … rank 2: does not answer: dead, stopped,
///     or inside a library call that does not return
/// then calls `on_hang` once, on its own thread. The lowest rank over the limit speaks; the others give it time to end
/// the job before they do so themselves.
#include <chrono>
#include <functional>
#include <memory>
#include <string>

namespace tessera::comm {

class MpiEnv;

struct WatchdogOptions {
  std::chrono::duration<double> limit{600};       ///< age of an unfinished collective
  std::chrono::duration<double> answer_limit{3};  ///< for the other ranks to answer
};

class Watchdog {
 public:
  /// Called with the report. A program prints it with the flight ring (MpiEnv::flight) and calls MpiEnv::abort.
  using OnHang = std::function<void(const std::string& report)>;

  /// Collective. Throws RunError unless the limits are positive.
  Watchdog(MpiEnv& env, const WatchdogOptions& options, OnHang on_hang);
  /// Stops the thread. Not collective, does not wait for other ranks; its communicator lasts until MPI ends.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// What this rank does now, for the reports of all ranks: "loading data", "step 812 backward".
  void set_phase(std::string phase);

  /// While one lives, this rank's limit rests (rank 0 writes a checkpoint, the others wait); afterwards it starts anew.
  class Pause {
   public:
    explicit Pause(Watchdog& dog);
    ~Pause();
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    Watchdog& dog_;
  };

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::comm
