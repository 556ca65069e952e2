#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <regex>

#include "cli/command.hpp"
#include "cli/devices.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/progress.hpp"
#include "tessera/io/tensor_file.hpp"
#include "tessera/models/forward.hpp"
#include "tessera/models/local_weights.hpp"
#include "tessera/shard/engine.hpp"
#include "tessera/train/model_setup.hpp"
#include "tessera/train/quantize_flags.hpp"

namespace tessera::cli {
namespace {

struct ForwardFlags {
  std::string model;
  std::vector<std::string> adapters;
  std::string inputs, outputs, dtype;
  train::QuantizeFlags quantize;
  std::string dump_quantized;
};

void bind(Options& options, ForwardFlags& flags, models::ForwardRequest& request) {
  const OptionInfo model{.group = "Model"};
  options.add("model", &flags.model, "model folder", {.group = "Model", .required = true});
  options.add("adapter", &flags.adapters, "PEFT folder(s)", model);
  options.add("merge", &request.merge, "merge the adapters into the weights first", model);
  options.add("vision_tower", &request.vision_tower,
              "folder of a LLaVA's or LISA's tower; default: the one that config.json names", model);
  options.add("vision_pretrained", &request.vision_pretrained, "SAM weights of a LISA whose folder has none", model);
  options.add("hub_dir", &request.hub_dir, "folder in which model names are looked up", model);
  options.add("select_layer", &request.select_layer, "CLIP: the hidden state that `selected.*` is", model);
  options.add("dtype", &flags.dtype, "arithmetic; default bf16 on GPUs, fp32 on CPUs",
              {.group = "Model", .choices = {"", "fp32", "bf16", "fp16"}});
  train::bind(options, flags.quantize, "Model");
  options.add("dump_quantized", &flags.dump_quantized,
              "of quantised layers that this regular expression is found in, packed.<layer>, absmax.<layer> and "
              "dequant.<layer> are written as well",
              {.group = "Run"});
  options.add("inputs", &flags.inputs,
              "safetensors file; a LLaVA's pictures in tiles: images [tiles,3,S,S] (llava_next: pixel_values, or one "
              "picture a row, [pictures,most tiles,3,S,S]) with image_sizes [pictures,2], height and width, and where "
              "they are not as many as those sizes ask for image_tiles [pictures]",
              {.group = "Run", .required = true});
  options.add("outputs", &flags.outputs, "safetensors file to write", {.group = "Run", .required = true});
  options.add("grads", &request.grads,
              "gradients to write: all, trainable, or a regular expression searched in the weights' names; empty: none",
              {.group = "Run"});
}

// Every rank has the same inputs, so every rank's gradient is the whole one and the engine's sum is W times it: the
// scalar is divided by W first.
void differentiate(shard::Engine& engine, const models::ForwardModel::Result& result) {
  if (result.objective.requires_grad()) {
    engine.backward(result.objective.div(static_cast<double>(engine.fabric().size())));
  }
}

void collect_gradients(shard::Engine& engine, const models::ForwardModel& model, models::TensorMap& outputs) {
  const bool writes = engine.fabric().rank() == 0;
  for (std::size_t unit = 0; unit < engine.layout().units().size(); ++unit) {
    engine.with_gradients(static_cast<nn::UnitId>(unit), [&](const nn::ParamState& param, const at::Tensor& gradient) {
      if (writes) model.put_gradient(outputs, param, gradient);
    });
  }
  if (writes) models::put_gradient_norm(outputs);
}

// `packed.`, `absmax.` and `dequant.` of the quantised layers whose names the pattern is found in; collective.
void dump_quantized(shard::Engine& engine, const models::ForwardModel& model, const std::regex& pattern,
                    models::TensorMap& outputs) {
  bool any = false;
  const auto layer_of = [&](const nn::ParamState& param) {
    auto name = model.file_name(param);
    if (name.ends_with(".weight")) name.resize(name.size() - std::string_view(".weight").size());
    return name;
  };
  for (std::size_t unit = 0; unit < engine.layout().units().size(); ++unit) {
    const auto id = static_cast<nn::UnitId>(unit);
    std::vector<std::string> wanted;
    engine.with_packed(id, [&](const nn::ParamState& param, const at::Tensor& codes, const at::Tensor& scales) {
      const auto layer = layer_of(param);
      if (!std::regex_search(layer, pattern)) return;
      wanted.push_back(param.name);
      outputs["packed." + layer] = codes;
      outputs["absmax." + layer] = scales;
    });
    if (wanted.empty()) continue;
    any = true;
    engine.with_gathered(id, false, [&] {
      for (const auto& name : wanted) {
        const auto param = engine.layout().find(name);
        outputs["dequant." + layer_of(*param)] = param->value().detach().to(at::kCPU, at::kFloat, false, true);
      }
    });
  }
  if (!any) throw RequestError("--dump_quantized: no quantised layer's name has the pattern");
}

std::optional<std::regex> dump_pattern(const std::string& text) {
  if (text.empty()) return std::nullopt;
  try {
    return std::regex(text);
  } catch (const std::regex_error& problem) {
    throw RequestError("--dump_quantized '{}' is no regular expression: {}", text, problem.what());
  }
}

models::TensorMap run_sharded(const models::ForwardRequest& request, const models::ForwardModel& model,
                              const models::TensorMap& inputs, shard::Engine& engine) {
  const bool graph = !request.grads.empty();
  const at::AutoGradMode mode(graph);
  engine.begin_step();
  engine.begin_pass(graph ? shard::Pass::train : shard::Pass::eval);
  auto result = model.run(inputs, engine);
  if (graph) {
    models::require_objective(result);
    differentiate(engine, result);
  }
  engine.end_pass();
  if (graph) {
    engine.reduce_held();
    collect_gradients(engine, model, result.outputs);
  }
  engine.end_step();
  return std::move(result.outputs);
}

}  // namespace

int run_forward(const std::vector<std::string>& args, Session& session) {
  ForwardFlags flags;
  models::ForwardRequest request;
  Options options("tessera forward", "Runs a model once on recorded inputs and writes everything it computed.");
  bind(options, flags, request);
  if (!parse(options, args)) return 0;
  request.model = flags.model;
  request.adapters.assign(flags.adapters.begin(), flags.adapters.end());

  Devices devices(session, flags.dtype);
  std::unique_ptr<models::ForwardModel> model;
  models::TensorMap inputs;
  std::unique_ptr<shard::Engine> engine;
  comm::on_every_rank(session.world(), [&] {
    inputs = io::read_tensors(flags.inputs);
    for (auto& [name, value] : inputs) value = value.to(devices.device());
    model = models::ForwardModel::open(request);
    shard::EngineConfig config;
    config.compute = train::compute_type(devices.precision());
    config.device = devices.device();
    if (request.grads == "all") train::freeze_quantizable(flags.quantize, model->layout(), model->weights());
    config.quantization = train::quantization(flags.quantize, model->layout(), &model->weights());
    if (!request.grads.empty()) {  // all logits are differentiated, which needs a frozen head whole
      for (const nn::Unit& unit : model->layout().units())
        config.units.push_back({.frozen = unit.row_matrix ? shard::Placement::resident : shard::Placement::world});
    }
    engine = std::make_unique<shard::Engine>(model->layout(), devices.fabric(), config);
    shard::LoadPolicy policy;
    policy.progress = progress_style(devices.fabric().rank());
    const auto report = engine->load(model->weights(), policy);
    const auto unexpected = models::unexpected_text(report.unused, model->layout());
    if (!unexpected.empty() && devices.fabric().rank() == 0) session.log().warn("{}", unexpected);
  });
  engine->settle();
  auto outputs = run_sharded(request, *model, inputs, *engine);
  if (const auto pattern = dump_pattern(flags.dump_quantized)) dump_quantized(*engine, *model, *pattern, outputs);
  comm::on_rank_zero(session.world(), [&] {
    io::write_tensors(flags.outputs, outputs);
    session.log().info("{} tensors written to {}", outputs.size(), flags.outputs);
  });
  engine.reset();
  devices.close();
  return 0;
}

}  // namespace tessera::cli
