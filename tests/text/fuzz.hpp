#pragma once
/// A small mutating fuzzer for readers of foreign files, and the corpus of cases that once broke one.
///
/// Deterministic for a given number of rounds. A run lasts TESSERA_FUZZ_SECONDS (default 0.3); the long test sets 60.
#include <functional>
#include <string>
#include <vector>

namespace tessera::testing_support {

struct FuzzResult {
  std::int64_t rounds = 0;
  std::int64_t accepted = 0;
  std::int64_t refused = 0;  ///< with RequestError
};

/// Feeds `read` with mutated seeds, words of `dictionary` among them. Anything that `read` throws but RequestError is
/// rethrown; the case that did it, or during which the program died, lies in `<temp>/tessera-fuzz-<name>`.
FuzzResult fuzz(const std::string& name, const std::vector<std::string>& seeds,
                const std::vector<std::string>& dictionary, const std::function<void(const std::string&)>& read);

/// Files of tests/golden/text/corpus/<name>, found by fuzzing before.
std::vector<std::string> corpus(const std::string& name);

}  // namespace tessera::testing_support
