// The one program. Every error ends here: it is printed once, tagged with the rank, and becomes the exit status.
#include <c10/util/Exception.h>
#include <mpi.h>

#include <array>
#include <cstdio>
#include <exception>

#include "cli/command.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/memory.hpp"
#include "tessera/core/version.hpp"

namespace tessera::cli {
namespace {

constexpr std::array kCommands{
    Command{"prepare", "turn data sets into HDF5 shards", run_prepare},
    Command{"inspect", "what prepared shards hold", run_inspect},
    Command{"train", "train a model on MPI ranks, sharded", run_train},
    Command{"eval", "gIoU and cIoU of a model on prepared data", run_eval},
    Command{"tokenize", "token ids of texts", run_tokenize},
    Command{"preprocess", "an image as the vision towers get it", run_preprocess},
    Command{"forward", "run a model once on recorded inputs", run_forward},
    Command{"merge", "merge an adapter into a model folder", run_merge},
    Command{"compose", "build a LLaVA from a language model and a CLIP", run_compose},
    Command{"reparameterize", "fold a FastViTHD's training branches", run_reparameterize},
    Command{"plan", "sizes, memory and traffic of a run, without weights", run_plan},
};

std::string usage() {
  std::string text =
      "tessera: trains LISA-class and LLaVA models on MPI ranks, ZeRO-3 style\n\nusage: tessera COMMAND [flags]\n\n";
  for (const auto& c : kCommands) text += fmt::format("  {:<16}{}\n", c.name, c.about);
  return text + "\ntessera COMMAND --help lists the flags of a command; tessera --version tells the version.\n";
}

int dispatch(const std::vector<std::string>& args, Session& session) {
  if (args.empty() || args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
    if (launcher_rank() == 0) std::fputs(usage().c_str(), stdout);
    return static_cast<int>(args.empty() ? ExitStatus::bad_request : ExitStatus::done);
  }
  if (args[0] == "--version") {
    if (launcher_rank() == 0) std::printf("tessera %s\n", version_string().c_str());
    return static_cast<int>(ExitStatus::done);
  }
  std::vector<std::string> names;
  for (const auto& c : kCommands) {
    if (args[0] == c.name) return c.run({args.begin() + 1, args.end()}, session);
    names.emplace_back(c.name);
  }
  const auto near = nearest_name(args[0], names);
  throw RequestError("unknown command '{}'{}; tessera --help lists them", args[0],
                     near.empty() ? "" : fmt::format(", did you mean '{}'?", near));
}

// LibTorch's errors carry a backtrace of its insides; the first lines are what a user can read.
std::string text_of(const std::exception& error) {
  const auto* torch = dynamic_cast<const c10::Error*>(&error);
  return torch != nullptr ? fmt::format("LibTorch: {}", torch->what_without_backtrace()) : error.what();
}

// The job's end when something was thrown. An error of one rank alone takes the others down with it, since they may
// wait in a collective; one that every rank threw lets MPI end in order.
int report(const std::exception& error, Session& session) {
  const auto* ours = dynamic_cast<const Error*>(&error);
  const auto status = ours != nullptr ? ours->status() : ExitStatus::failed;
  const bool started = session.mpi_started();
  const bool everywhere = !started || (ours != nullptr && ours->everywhere());
  const int rank = started ? session.mpi().rank() : launcher_rank();
  const int size = started ? session.mpi().size() : 1;
  if (!everywhere || rank == 0) {
    if (size > 1 && !everywhere) {
      std::fprintf(stderr, "[rank %d/%d] error: %s\n", rank, size, text_of(error).c_str());
    } else {
      std::fprintf(stderr, "error: %s\n", text_of(error).c_str());
    }
    std::fflush(nullptr);
  }
  if (!everywhere && size > 1) MPI_Abort(MPI_COMM_WORLD, static_cast<int>(status));
  return static_cast<int>(status);
}

}  // namespace
}  // namespace tessera::cli

int main(int argc, char** argv) {
  using namespace tessera;
  keep_freed_memory();
  cli::Session session({argv, argv + argc});
  int status = 0;
  try {
    status = cli::dispatch({argv + 1, argv + argc}, session);
  } catch (const std::exception& e) {
    status = cli::report(e, session);
  }
  try {
    session.close();
  } catch (const std::exception& e) {
    status = cli::report(e, session);
  }
  return status;
}
