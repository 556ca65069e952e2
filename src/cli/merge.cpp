#include "cli/command.hpp"
#include "tessera/adapt/peft_folder.hpp"
#include "tessera/io/model_writer.hpp"

namespace tessera::cli {

int run_merge(const std::vector<std::string>& args, Session& session) {
  std::string model, output, max_shard_size = "5GB";
  std::vector<std::string> adapters;
  Options options("tessera merge",
                  "Merges adapters into a model folder, tensor by tensor, or without any saves it anew as safetensors; "
                  "one process, no GPU.");
  options.add("model", &model, "model folder", {.group = "Merge", .required = true});
  options.add("adapter", &adapters, "PEFT folder(s), merged in this order", {.group = "Merge"});
  options.add("output", &output, "folder for the merged model", {.group = "Merge", .required = true});
  options.add("max_shard_size", &max_shard_size, "of a file of weights, e.g. 5GB or 200MB", {.group = "Merge"});
  if (!parse(options, args)) return 0;
  if (launcher_rank() != 0) return 0;  // the work of one process; under mpirun the others have nothing to do
  adapt::MergeRequest request{
      model, {adapters.begin(), adapters.end()}, output, io::shard_bytes_from_text(max_shard_size)};
  const adapt::MergeReport report = adapt::merge_folder(request);
  session.log().info("{} tensors, {} of them merged, {:.1f} MB in {} file{} written to {}", report.tensors,
                     report.merged, static_cast<double>(report.bytes) / 1e6, report.files, report.files == 1 ? "" : "s",
                     output);
  return 0;
}

}  // namespace tessera::cli
