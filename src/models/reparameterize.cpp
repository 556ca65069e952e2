#include "tessera/models/reparameterize.hpp"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/io/model_writer.hpp"
#include "tessera/io/tensor_file.hpp"
#include "tessera/models/fastvit.hpp"
#include "tessera/models/llava_folder.hpp"

namespace tessera::models {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kBlock = std::int64_t{1} << 22;  // elements

/// Where the names of a convolution's branches part from its own.
constexpr std::array kBranchParts{".rbr_",        ".conv_kxk.",   ".conv_scale.", ".identity.",
                                  ".lkb_origin.", ".small_conv.", ".large_conv.", ".mixer.",
                                  ".norm.",       ".pe.",         ".pos_enc."};

/// The tower of a folder of its own, or of a LLaVA with it inside.
struct Tower {
  FastVitConfig config;
  std::string part;  ///< what the tower's names contain; empty: every name is the tower's
};

Tower find_tower_of(const io::ModelFolder& model, const io::TensorSource& weights) {
  const nlohmann::json& config = model.config().raw();
  Tower tower;
  if (is_fastvit_config(config)) {
    tower.config = FastVitConfig::from_json(config);
  } else if (is_llava_config(config)) {
    const LlavaFolder llava = read_llava_folder({model.directory(), "", ""});
    if (!llava.llava.tower.fastvit)
      throw RequestError("{}: its vision tower is no FastViTHD; others have nothing to fold", model.config().where());
    tower = {*llava.llava.tower.fastvit, "vision_tower."};
  } else {
    throw RequestError("{}: neither a FastViTHD nor a LLaVA with one", model.config().where());
  }
  tower.config.fit_to_weights(weights, tower.part);
  return tower;
}

/// A tower's tensors of the files, by our name.
std::map<std::string, const io::TensorInfo*> by_own_name(const io::TensorSource& weights, const Tower& tower) {
  std::map<std::string, const io::TensorInfo*> found;
  for (const io::TensorInfo& tensor : weights.tensors()) {
    const auto at = tensor.name.find(tower.part);
    if (at == std::string::npos) continue;
    if (const auto own = fastvit_name(tensor.name.substr(at + tower.part.size()), tower.config)) {
      found.emplace(*own, &tensor);
    }
  }
  return found;
}

/// A convolution to write in place of its branches.
struct Job {
  FastVitFold fold;
  std::string name;               ///< in the files, without ".weight"
  io::Elem type = io::Elem::f32;  ///< of its branches
};

/// "stages.0.downsample.proj.0.large_conv.conv.weight" becomes "stages.0.downsample.proj.0.reparam_conv".
std::string folded_name(const std::string& branch) {
  auto cut = branch.size();
  for (const std::string_view part : kBranchParts) cut = std::min(cut, branch.find(part));
  const bool apples_large = branch.find("lkb_origin.") != std::string::npos;
  return branch.substr(0, cut) + (apples_large ? ".lkb_reparam" : ".reparam_conv");
}

struct Plan {
  std::vector<Job> jobs;
  std::vector<io::TensorInfo> kept;
  std::vector<io::TensorInfo> table;  ///< kept ones and the jobs'
};

Plan plan_of(const FastVit& network, const io::TensorSource& weights,
             const std::map<std::string, const io::TensorInfo*>& files) {
  Plan plan;
  std::set<std::string> folded;
  for (FastVitFold& fold : network.folds()) {
    const io::TensorInfo* first = nullptr;
    for (const nn::Param& param : fold.sources) {
      const auto found = files.find(param->name);
      if (found == files.end()) throw RequestError("reparameterize: '{}' is missing in the weights", param->name);
      if (found->second->shape != param->shape) {
        throw RequestError("reparameterize: '{}' is {}, expected {}", found->second->name,
                           io::shape_text(found->second->shape), io::shape_text(param->shape));
      }
      if (first == nullptr) first = found->second;
      folded.insert(found->second->name);
      constexpr std::string_view kMean = "running_mean";
      if (found->second->name.ends_with(kMean)) {
        const std::string& name = found->second->name;
        folded.insert(name.substr(0, name.size() - kMean.size()) + "num_batches_tracked");
      }
    }
    const auto shape = fold.shape;
    Job job{std::move(fold), folded_name(first->name), first->type};
    plan.table.push_back({job.name + ".weight", job.type, shape});
    plan.table.push_back({job.name + ".bias", job.type, {shape.front()}});
    plan.jobs.push_back(std::move(job));
  }
  for (const io::TensorInfo& tensor : weights.tensors()) {
    if (folded.contains(tensor.name)) continue;
    plan.kept.push_back(tensor);
    plan.table.push_back(tensor);
  }
  return plan;
}

void write_job(const Job& job, const io::TensorSource& weights,
               const std::map<std::string, const io::TensorInfo*>& files, io::ModelWriter& writer) {
  at::ScalarType type = at::kFloat;
  for (const nn::Param& param : job.fold.sources) {
    const at::Tensor value = io::read_tensor(weights, *files.at(param->name));
    if (param == job.fold.sources.front()) type = value.scalar_type();
    param->bind(value.to(at::kDouble));
  }
  const auto [kernel, bias] = job.fold.fold();
  const auto put = [&](const std::string& name, const at::Tensor& value) {
    const at::Tensor typed = value.to(type).contiguous();
    writer.write(name, 0, typed.numel(), typed.const_data_ptr());
  };
  put(job.name + ".weight", kernel);
  put(job.name + ".bias", bias);
  for (const nn::Param& param : job.fold.sources) param->unbind();
}

void copy_tensor(const io::TensorInfo& tensor, const io::TensorSource& weights, io::ModelWriter& writer) {
  std::vector<std::byte> block;
  for (std::int64_t begin = 0; begin < tensor.numel(); begin += kBlock) {
    const std::int64_t count = std::min(kBlock, tensor.numel() - begin);
    block.resize(static_cast<std::size_t>(count) * io::size_of(tensor.type));
    weights.read(tensor, begin, count, block.data());
    writer.write(tensor.name, begin, count, block.data());
  }
}

/// The other form's config: where the constructor's arguments stand, the form is one of them.
nlohmann::json folded_config(nlohmann::json config) {
  nlohmann::json& tower = config.contains("vision_config") ? config["vision_config"] : config;
  if (tower.contains("architecture")) {
    tower["model_args"]["inference_mode"] = true;
  } else if (tower.contains("image_cfg")) {
    tower["image_cfg"]["inference_mode"] = true;
  } else if (tower.contains("inference_mode")) {
    tower["inference_mode"] = true;
  }
  return config;
}

void copy_other_files(const fs::path& from, const fs::path& to) {
  for (const auto& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    const auto is_weights = [&](std::string_view ending) { return name.ends_with(ending); };
    constexpr std::array<std::string_view, 5> kWeights{".safetensors", ".bin", ".pth", ".pt", ".index.json"};
    if (!entry.is_regular_file() || name == "config.json" || std::any_of(kWeights.begin(), kWeights.end(), is_weights))
      continue;
    fs::copy_file(entry.path(), to / name, fs::copy_options::overwrite_existing);
  }
}

}  // namespace

ReparameterizeReport reparameterize_folder(const ReparameterizeRequest& request) {
  const io::ModelFolder model(request.model);
  if (fs::exists(request.output) && fs::equivalent(request.output, request.model))
    throw RequestError("reparameterize: the output {} is the model's own folder", request.output.string());
  const io::SourcePtr weights = model.weights();
  const Tower tower = find_tower_of(model, *weights);
  if (!tower.config.branches)
    throw RequestError("{}: the tower's weights have no branches to fold", request.model.string());
  nn::ModelLayout layout;
  const FastVit network(layout, tower.config, "model");
  const auto files = by_own_name(*weights, tower);
  const Plan plan = plan_of(network, *weights, files);

  make_directories(request.output);
  io::ModelWriter writer(request.output, plan.table);
  for (const Job& job : plan.jobs) write_job(job, *weights, files, writer);
  for (const io::TensorInfo& tensor : plan.kept) copy_tensor(tensor, *weights, writer);
  copy_other_files(model.directory(), request.output);
  write_json(request.output / "config.json", folded_config(model.config().raw()));
  writer.commit();
  ReparameterizeReport report;
  report.tensors = static_cast<std::int64_t>(plan.table.size());
  report.folded = static_cast<std::int64_t>(plan.jobs.size());
  report.bytes = writer.plan().total_bytes;
  return report;
}

}  // namespace tessera::models
