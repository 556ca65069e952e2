#include "cli/toy_run.hpp"

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

namespace tessera::testing_support {

namespace {

namespace fs = std::filesystem;

void must(const RunResult& result, const std::string& what) {
  if (result.status != 0)
    throw std::runtime_error(what + " failed with status " + std::to_string(result.status) + ":\n" + result.output);
}

constexpr const char* kConfig = R"({
  "model_type": "llava", "architectures": ["LISAForCausalLM"], "vocab_size": 640, "hidden_size": 48,
  "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 1024, "initializer_range": 0.1,
  "hidden_act": "silu", "tie_word_embeddings": false,
  "mm_vision_tower": "clip", "mm_hidden_size": 32, "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
  "mm_use_im_start_end": true, "out_dim": 32, "train_mask_decoder": true,
  "sam_config": {"image_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 4.0,
    "global_attn_indexes": [1], "window_size": 5, "prompt_embed_dim": 32, "mask_in_chans": 16, "decoder_depth": 2,
    "decoder_mlp_dim": 64, "decoder_num_heads": 4, "num_multimask_outputs": 3, "iou_head_depth": 3,
    "iou_head_hidden_dim": 32, "norm_eps": 1e-6}
})";

constexpr const char* kClip = R"({
  "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
  "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "num_channels": 3, "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5, "initializer_range": 0.1
})";

constexpr const char* kProcessor = R"({"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32},
  "do_resize": true, "do_center_crop": true, "do_normalize": true, "resample": 3,
  "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]})";

}  // namespace

ToyRun::ToyRun() {
  const fs::path source = TESSERA_SOURCE_DIR;
  must(run(std::string(TESSERA_PYTHON) + " " + (source / "launch/make_scenes.py").string() + " --out " +
           scenes().string() + " --size 64 --train 16 --train_describe 4 --val 3"),
       "make_scenes");
  write_file(model() / "config.json", kConfig);
  write_file(model() / "clip/config.json", kClip);
  write_file(model() / "clip/preprocessor_config.json", kProcessor);
  fs::copy_file(source / "launch/toy/lisa/tokenizer.model", model() / "tokenizer.model");
  must(
      tessera(2, "prepare --version " + model().string() + " --dataset_dir " + scenes().string() + " --output_dir " +
                     shards().string() +
                     " --reason_seg_data 'ReasonSeg|train_names' --val_dataset 'ReasonSeg|val_names' --explanatory -1"),
      "prepare");
}

RunResult ToyRun::tessera(int ranks, const std::string& args) const {
  std::string command = "OMP_NUM_THREADS=1 ";
  if (ranks > 0) {
    command += "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun -n " + std::to_string(ranks) +
               " --oversubscribe --bind-to none ";
  }
  return run(command + std::string(TESSERA_PROGRAM) + " " + args + " </dev/null");
}

RunResult ToyRun::train(int ranks, const std::string& name, const std::string& extra) const {
  return tessera(
      ranks,
      "train --version " + model().string() + " --random_init --shards " + shards().string() + " --log_base_dir " +
          dir().string() + " --exp_name " + name +
          " --batch_size 1 --global_batch_size 12 --warmup_steps 3 --lr 1e-3 --workers 1 --model_max_length 400 " +
          extra);
}

std::map<int, double> ToyRun::metric(const std::string& name, const std::string& key) const {
  std::map<int, double> out;
  std::istringstream lines(read_file(dir() / name / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const auto object = nlohmann::json::parse(line);
    if (object.contains(key) && object[key].is_number()) out[object["step"].get<int>()] = object[key].get<double>();
  }
  return out;
}

double largest_difference(const std::map<int, double>& a, const std::map<int, double>& b) {
  double worst = -1;
  for (const auto& [step, value] : a) {
    const auto other = b.find(step);
    if (other != b.end()) worst = std::max(worst, std::abs(value - other->second) / std::max(1e-12, std::abs(value)));
  }
  if (worst < 0) throw std::runtime_error("the two runs share no step");
  return worst;
}

}  // namespace tessera::testing_support
