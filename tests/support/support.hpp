#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace tessera::testing_support {

/// A fresh directory, removed with its content at the end of the scope.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const noexcept { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

struct RunResult {
  int status = 0;      ///< exit status, 128 + signal when killed
  std::string output;  ///< stdout and stderr together
};

/// Runs a shell command, waits, and returns its status and output.
RunResult run(const std::string& command);

std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& bytes);

}  // namespace tessera::testing_support
