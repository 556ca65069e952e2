#pragma once
// A miniature LISA and scenes to train it on, made once for a test program: every case runs the real program on them.
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "support/support.hpp"

namespace tessera::testing_support {

class ToyRun {
 public:
  /// Composes scenes, writes the model's description, prepares shards. Throws when a step fails.
  ToyRun();
  const std::filesystem::path& dir() const noexcept { return dir_.path(); }
  std::filesystem::path model() const { return dir() / "model"; }
  std::filesystem::path shards() const { return dir() / "shards"; }
  std::filesystem::path scenes() const { return dir() / "scenes"; }

  /// `mpirun -n ranks tessera <args>`, one thread a rank; ranks 0: without mpirun.
  RunResult tessera(int ranks, const std::string& args) const;
  /// `tessera train` in the run folder `name`, with settings small enough for a test.
  RunResult train(int ranks, const std::string& name, const std::string& extra) const;

  /// One key of every step line of a run's metrics.jsonl, by step.
  std::map<int, double> metric(const std::string& run, const std::string& key) const;

 private:
  TempDir dir_;
};

/// Largest relative difference of two series over the steps both have; throws when they share none.
double largest_difference(const std::map<int, double>& a, const std::map<int, double>& b);

}  // namespace tessera::testing_support
