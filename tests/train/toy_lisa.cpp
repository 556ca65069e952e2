#include "train/toy_lisa.hpp"

#include <optional>

#include "data/toy.hpp"
#include "support/support.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/data/prepare.hpp"

namespace tessera::train::toy {

namespace {

namespace fs = std::filesystem;
using testing_support::TempDir;
using testing_support::write_file;

constexpr const char* kConfig = R"({
  "model_type": "llava", "architectures": ["LISAForCausalLM"], "vocab_size": 100, "hidden_size": 24,
  "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 1024, "initializer_range": 0.1,
  "hidden_act": "silu", "tie_word_embeddings": false,
  "mm_vision_tower": "clip", "mm_hidden_size": 16, "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
  "mm_use_im_start_end": true, "out_dim": 16, "train_mask_decoder": true,
  "sam_config": {"image_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
    "global_attn_indexes": [1], "window_size": 3, "prompt_embed_dim": 16, "mask_in_chans": 16, "decoder_depth": 2,
    "decoder_mlp_dim": 24, "decoder_num_heads": 2, "num_multimask_outputs": 3, "iou_head_depth": 3,
    "iou_head_hidden_dim": 16, "norm_eps": 1e-6}
})";

constexpr const char* kClip = R"({
  "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
  "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "num_channels": 3, "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5, "initializer_range": 0.1
})";

constexpr const char* kProcessor = R"({"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16},
  "do_resize": true, "do_center_crop": true, "do_normalize": true, "resample": 3,
  "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]})";

void write_model(const fs::path& folder) {
  write_file(folder / "config.json", kConfig);
  write_file(folder / "clip/config.json", kClip);
  write_file(folder / "clip/preprocessor_config.json", kProcessor);
  fs::copy_file(data::toy::model_folder() / "tokenizer.model", folder / "tokenizer.model");
}

// Of this program; on rank 0 alone it is a folder.
const fs::path& scratch_folder(comm::Communicator& comm) {
  static std::optional<TempDir> mine;
  static fs::path path;
  if (path.empty()) {
    if (comm.rank() == 0) mine.emplace();
    path = comm::broadcast_text(comm, mine ? mine->path().string() : "");
  }
  return path;
}

}  // namespace

Job::Job() : comm_(comm::make_mpi(env_)) {}

fs::path Job::fresh_folder(const std::string& name) {
  const auto folder = scratch_folder(*comm_) / name;
  comm::on_rank_zero(*comm_, [&] {
    fs::remove_all(folder);
    fs::create_directories(folder);
  });
  return folder;
}

const Folders& Job::folders() {
  static Folders made;
  if (made.scratch.empty()) {
    const auto scratch = scratch_folder(*comm_);
    made.model = scratch / "model";
    comm::on_rank_zero(*comm_, [&] { write_model(made.model); });
    made.scratch = scratch;
    made.shards = prepare("small", [](const fs::path& root) { data::toy::write_small_set(root); });
  }
  return made;
}

fs::path Job::prepare(const std::string& name, const std::function<void(const fs::path&)>& write_items) {
  const auto model = folders().model;
  const auto root = fresh_folder(name + "_items");
  const auto output = scratch_folder(*comm_) / (name + "_shards");
  comm::on_rank_zero(*comm_, [&] { write_items(root); });
  auto config = data::toy::small_config(root, output);
  config.version = model.string();
  config.workers = 1;
  data::run_prepare(config, *comm_, Log());
  return output;
}

TrainConfig Job::config() {
  TrainConfig c;
  c.version = folders().model.string();
  c.precision = "fp32";
  c.random_init = true;
  c.lora_r = 4;
  c.lora_alpha = 12;
  c.out_dim = 16;
  return c;
}

LoadedModel Job::load(const TrainConfig& config, bool for_training, std::uint64_t seed) {
  return load_model(config, fabric(), c10::Device(c10::DeviceType::CPU), seed, for_training, Log());
}

at::Tensor value_of(LoadedModel& model, const std::string& name) {
  const auto param = model.layout->find(name);
  if (!param) throw std::runtime_error("the model has no " + name);
  at::Tensor out;
  model.engine->with_gathered(param->unit, true, [&] { out = param->value().detach().clone(); });
  return out;
}

}  // namespace tessera::train::toy
