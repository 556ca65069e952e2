#pragma once
// Lanes: several functions that run in lock step on one thread. Each runs on a stack of its own and stops at every
// meet(); when all have reached the same meeting place, they go on from there one after another, in order. So layer k
// runs for all micro-batches before layer k + 1 does, although each function is written as one plain forward pass.
//
// One thread for all of them: autograd numbers its nodes per thread, and runs those with the highest numbers first, so
// that one backward over all lanes walks the layers in lock step, too, last lane first.
#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

namespace tessera::shard {

class Lanes {
 public:
  explicit Lanes(const std::vector<std::function<void()>>& functions);
  ~Lanes();
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;

  // Runs all functions to their end. An error in one ends the others at their next meet(), then is thrown.
  // RunError when they do not meet at the same places.
  void run();

  // Called inside a function: waits until every lane has come to `place`.
  void meet(int place);
  std::size_t lane() const noexcept;  // the one that runs now
  std::size_t size() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::shard
