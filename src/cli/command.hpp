#pragma once
// The frame of the program: one Command per subcommand, a Session that carries what they share.
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/core/log.hpp"
#include "tessera/core/options.hpp"

namespace tessera::cli {

// MPI starts when a command first asks for it, so that --help and single-process tools do without.
class Session {
 public:
  explicit Session(std::vector<std::string> command_line) : command_line_(std::move(command_line)) {}
  comm::MpiEnv& mpi();
  bool mpi_started() const noexcept { return mpi_ != nullptr; }
  comm::Communicator& world();  // all ranks, host memory
  Log log();
  const std::vector<std::string>& command_line() const noexcept { return command_line_; }
  // Closes what was opened, in order; collective when MPI was started.
  void close();

 private:
  std::vector<std::string> command_line_;
  std::unique_ptr<comm::MpiEnv> mpi_;
  std::unique_ptr<comm::Communicator> world_;
};

struct Command {
  std::string_view name;
  std::string_view about;
  int (*run)(const std::vector<std::string>& args, Session& session);
};

// Parses; prints help and returns false when it was asked for. Warnings of ignored flags go to the log of rank 0.
bool parse(Options& options, const std::vector<std::string>& args);

// The rank that the launcher gave this process, before MPI starts; 0 without a launcher.
int launcher_rank() noexcept;

int run_prepare(const std::vector<std::string>& args, Session& session);
int run_inspect(const std::vector<std::string>& args, Session& session);
int run_train(const std::vector<std::string>& args, Session& session);
int run_eval(const std::vector<std::string>& args, Session& session);
int run_forward(const std::vector<std::string>& args, Session& session);
int run_compose(const std::vector<std::string>& args, Session& session);
int run_merge(const std::vector<std::string>& args, Session& session);
int run_reparameterize(const std::vector<std::string>& args, Session& session);
int run_plan(const std::vector<std::string>& args, Session& session);
int run_tokenize(const std::vector<std::string>& args, Session& session);
int run_preprocess(const std::vector<std::string>& args, Session& session);

}  // namespace tessera::cli
