#pragma once
/// Problem: one broken sample, said so that its owner can mend it; BrokenSample carries it up from a reader.
#include <string>
#include <utility>

#include "tessera/core/error.hpp"

namespace tessera::data {

struct Problem {
  std::string file;   ///< path
  std::string where;  ///< place in the file, e.g. "shapes[2].points[5]"; may be empty
  std::string why;

  std::string text() const { return where.empty() ? file + ": " + why : file + ": " + where + ": " + why; }
  bool operator==(const Problem&) const = default;
};

/// A sample that cannot be used. `prepare` reports, counts and skips it, or ends with status 2 under --strict.
class BrokenSample : public RequestError {
 public:
  explicit BrokenSample(Problem problem) : RequestError("{}", problem.text()), problem_(std::move(problem)) {}
  const Problem& problem() const noexcept { return problem_; }

 private:
  Problem problem_;
};

}  // namespace tessera::data
