#include "tessera/models/reparameterize.hpp"

#include "cli/command.hpp"

namespace tessera::cli {

int run_reparameterize(const std::vector<std::string>& args, Session& session) {
  std::string model, output;
  Options options("tessera reparameterize",
                  "Folds the branches of a FastViTHD as trained into its published form; one process, no GPU.");
  options.add("model", &model, "folder of the tower, or of a LLaVA that contains it",
              {.group = "Reparameterize", .required = true});
  options.add("output_dir", &output, "folder for the folded model", {.group = "Reparameterize", .required = true});
  if (!parse(options, args)) return 0;
  if (launcher_rank() != 0) return 0;  // the work of one process; under mpirun the others have nothing to do
  const models::ReparameterizeReport report = models::reparameterize_folder({model, output});
  session.log().info("{} convolutions folded, {} tensors, {:.1f} MB written to {}", report.folded, report.tensors,
                     static_cast<double>(report.bytes) / 1e6, output);
  return 0;
}

}  // namespace tessera::cli
