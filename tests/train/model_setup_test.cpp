// Which weights a model gets, and which of them train; on as many ranks as this program was started with.
#include "tessera/train/model_setup.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/safetensors.hpp"
#include "tessera/nn/layers.hpp"
#include "train/toy_lisa.hpp"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;
using testing_support::message_of;
constexpr std::int64_t kAdded = 3;  // [SEG], <im_start>, <im_end>

bool names_any(const std::string& name, std::initializer_list<const char*> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](const char* part) { return name.find(part) != std::string::npos; });
}
bool has_vocabulary_rows(const std::string& name) {
  return name == "model.embed_tokens.weight" || name == "lm_head.weight";
}
bool is_drawn_later(const std::string& name) {
  return names_any(name, {"text_hidden_fcs", ".lora_"});
}

// The folder of a LLaVA before it became a LISA: no rows of the added tokens, no text_hidden_fcs.
fs::path write_base(toy::Job& job, LoadedModel& model) {
  const auto folder = job.fresh_folder("base");
  std::vector<io::TensorInfo> table;
  for (const auto& p : model.layout->params()) {
    if (is_drawn_later(p->name)) continue;
    auto shape = p->shape;
    if (has_vocabulary_rows(p->name)) shape[0] -= kAdded;
    table.push_back({p->name, io::Elem::f32, shape});
  }
  std::optional<io::SafetensorsWriter> writer;
  if (job.rank() == 0) {
    fs::copy(job.folders().model, folder, fs::copy_options::recursive);
    auto config = nlohmann::json::parse(testing_support::read_file(folder / "config.json"));
    config.erase("train_mask_decoder");
    testing_support::write_file(folder / "config.json", config.dump());
    writer.emplace(folder / "model.safetensors", table, io::Metadata{{"format", "pt"}});
  }
  for (const auto& info : table) {
    const auto value = toy::value_of(model, info.name).contiguous();
    if (!writer) continue;
    std::int64_t numel = 1;
    for (const auto n : info.shape) numel *= n;
    writer->write(info.name, 0, numel, value.const_data_ptr());
  }
  if (writer) writer->commit();
  job.comm().barrier();
  return folder;
}

TEST(ModelSetup, AFinishedLisaWithoutItsWeightsIsRefusedWithTheirNames) {
  toy::Job job;
  auto config = job.config();
  config.random_init = false;
  const auto text = message_of<RequestError>([&] { job.load(config); });
  for (const char* name : {"lm_head.weight", "model.embed_tokens.weight", "text_hidden_fcs", "mask_decoder"}) {
    EXPECT_NE(text.find(name), std::string::npos) << "no " << name << " in: " << text.substr(0, 2000);
  }
}

TEST(ModelSetup, ScopeLisaTrainsAdaptersVocabularyProjectionAndMaskDecoderAlone) {
  toy::Job job;
  const auto model = job.load(job.config());
  std::int64_t trained = 0, adapters = 0;
  for (const auto& p : model.layout->params()) {
    const bool wanted =
        names_any(p->name, {".lora_A.", ".lora_B.", "embed_tokens", "lm_head", "text_hidden_fcs", ".mask_decoder."}) &&
        !p->buffer;
    EXPECT_EQ(p->trainable, wanted) << p->name;
    trained += p->trainable ? 1 : 0;
    adapters += names_any(p->name, {".lora_"}) ? 1 : 0;
  }
  EXPECT_GT(trained, 20);
  EXPECT_EQ(adapters, 2 * 2 * 2);  // A and B on q_proj and v_proj of two layers
  ASSERT_TRUE(model.lora.has_value());
  EXPECT_DOUBLE_EQ(model.lora->config.scaling(), 3.0);
  EXPECT_FALSE(model.vision_tower_trained);
}

TEST(ModelSetup, TheMaskDecoderCanBeLeftAlone) {
  toy::Job job;
  auto config = job.config();
  config.train_mask_decoder = false;
  const auto model = job.load(config);
  for (const auto& p : model.layout->params()) {
    if (!names_any(p->name, {".mask_decoder."})) continue;
    EXPECT_FALSE(p->trainable) << p->name;
  }
  EXPECT_TRUE(model.layout->find("lm_head.weight")->trainable);
}

TEST(ModelSetup, AdaptersGoOnEveryPartOfTheModel) {
  toy::Job job;
  auto config = job.config();
  config.lora_r = 1;  // SAM's decoder has layers with one output
  config.train_scope = "lora";
  config.adapter.target_modules = {"all-linear"};
  config.adapter.modules_to_save = {"text_hidden_fcs"};
  const auto model = job.load(config);
  const auto& layers = model.layout->layers();
  const auto linears = std::count_if(layers.begin(), layers.end(),
                                     [](const auto& layer) { return layer->kind == nn::LayerKind::linear; });
  EXPECT_EQ(static_cast<std::int64_t>(model.lora->layers.size()), linears - 3);  // all but the head and the saved two
  for (const auto& p : model.layout->params()) {
    EXPECT_EQ(p->trainable, names_any(p->name, {".lora_A.", ".lora_B.", "text_hidden_fcs"}) && !p->buffer) << p->name;
  }
  EXPECT_TRUE(model.vision_tower_trained);
}

TEST(ModelSetup, AnAdapterOnTheMaskDecoderTrainsWhereTheDecoderDoesNot) {
  toy::Job job;
  auto config = job.config();
  config.lora_r = 2;
  config.train_mask_decoder = false;
  config.adapter.target_modules = {".*mask_decoder.*q_proj"};
  const auto model = job.load(config);
  std::int64_t adapters = 0;
  for (const auto& p : model.layout->params()) {
    if (!names_any(p->name, {".mask_decoder."})) continue;
    EXPECT_EQ(p->trainable, names_any(p->name, {".lora_"})) << p->name;
    adapters += p->trainable ? 1 : 0;
  }
  EXPECT_GT(adapters, 0);
}

TEST(ModelSetup, ScopeFullTrainsEverythingButBuffers) {
  toy::Job job;
  auto config = job.config();
  config.train_scope = "full";
  config.lora_r = 0;
  const auto model = job.load(config);
  std::int64_t buffers = 0;
  for (const auto& p : model.layout->params()) {
    EXPECT_EQ(p->trainable, !p->buffer) << p->name;
    buffers += p->buffer ? 1 : 0;
  }
  EXPECT_GT(buffers, 0);
  EXPECT_FALSE(model.lora.has_value());
  EXPECT_TRUE(model.vision_tower_trained);
}

TEST(ModelSetup, NothingTrainsInAnEvaluation) {
  toy::Job job;
  const auto model = job.load(job.config(), /*for_training=*/false);
  EXPECT_EQ(model.layout->trainable_elements(), 0);
  EXPECT_FALSE(model.lora.has_value());
}

TEST(ModelSetup, ALlavaBaseIsReadAndTheRowsOfAddedTokensAreDrawn) {
  toy::Job job;
  auto source = job.load(job.config());
  auto config = job.config();
  config.version = write_base(job, source).string();
  config.random_init = false;
  auto base = job.load(config, true, /*seed=*/8);
  auto config_drawn = job.config();
  auto drawn = job.load(config_drawn, true, /*seed=*/8);
  EXPECT_TRUE(toy::value_of(base, "model.norm.weight").equal(toy::value_of(source, "model.norm.weight")));
  const std::string q = "model.layers.1.self_attn.q_proj.weight";
  EXPECT_TRUE(toy::value_of(base, q).equal(toy::value_of(source, q)));
  EXPECT_FALSE(toy::value_of(base, q).equal(toy::value_of(drawn, q)));
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
    const auto now = toy::value_of(base, name);
    const auto old = now.size(0) - kAdded;
    EXPECT_TRUE(now.narrow(0, 0, old).equal(toy::value_of(source, name).narrow(0, 0, old))) << name;
    // Value i of a weight depends on the seed, its name and i alone.
    const auto added = now.narrow(0, old, kAdded);
    EXPECT_TRUE(added.equal(toy::value_of(drawn, name).narrow(0, old, kAdded))) << name;
    EXPECT_GT(added.abs().max().item<float>(), 0.0F) << name;
  }
}

TEST(ModelSetup, RowsOfAddedTokensCanBeTheMeanOfTheOthers) {
  toy::Job job;
  auto source = job.load(job.config());
  auto config = job.config();
  config.version = write_base(job, source).string();
  config.random_init = false;
  config.new_token_init = "mean";
  auto base = job.load(config, true, /*seed=*/8);
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
    const auto now = toy::value_of(base, name);
    const auto rows = now.narrow(0, 0, now.size(0) - kAdded);
    EXPECT_TRUE(rows.equal(toy::value_of(source, name).narrow(0, 0, rows.size(0)))) << name;
    const auto added = now.narrow(0, rows.size(0), kAdded);
    EXPECT_TRUE(added.allclose(rows.mean(0, true).expand_as(added), 1e-5, 1e-7)) << name;
  }
  config.new_token_init = "zeros";
  EXPECT_THROW(job.load(config), RequestError);
}

TEST(ModelSetup, TheSizesOfTheDataAreTheModels) {
  toy::Job job;
  const auto model = job.load(job.config());
  const auto spec = model.input_spec(123);
  EXPECT_EQ(spec.sam_size, 32);
  EXPECT_EQ(spec.clip.crop, (image::Size{16, 16}));
  EXPECT_EQ(spec.image_patches, 4);
  EXPECT_EQ(spec.model_max_length, 123);
}

TEST(ModelSetup, APrecisionThatDoesNotExistIsRefusedByName) {
  EXPECT_EQ(compute_type("fp32"), shard::ComputeType::f32);
  EXPECT_EQ(compute_type("bf16"), shard::ComputeType::bf16);
  EXPECT_EQ(compute_type("fp16"), shard::ComputeType::f16);
  const auto text = message_of<RequestError>([] { compute_type("int8"); });
  EXPECT_NE(text.find("--precision 'int8'"), std::string::npos) << text;
  toy::Job job;
  auto config = job.config();
  config.precision = "int8";
  EXPECT_THROW(job.load(config), RequestError);
}

TEST(ModelSetup, LoraTargetsAreACommaList) {
  const auto config = lora_config(4, 8, 0.25, "q_proj,,o_proj");
  EXPECT_EQ(config.targets, (std::vector<std::string>{"q_proj", "o_proj"}));
  EXPECT_EQ(config.rank, 4);
  EXPECT_EQ(config.alpha, 8.0);
  EXPECT_EQ(config.dropout, 0.25);
}

TEST(ModelSetup, BackwardPassesThroughLanguageButNotThroughFrozenTowers) {
  toy::Job job;
  const auto model = job.load(job.config());
  bool tower = false;
  const auto backward = has_backward(*model.layout);
  for (const auto& unit : model.layout->units()) {
    if (unit.params.empty()) continue;
    const auto& name = unit.params.front()->name;
    if (name.starts_with("model.layers.")) {
      EXPECT_TRUE(backward(unit)) << unit.name;
    }
    if (name.starts_with("model.vision_tower.") || names_any(name, {"image_encoder"})) {
      EXPECT_FALSE(backward(unit)) << unit.name;
      tower = true;
    }
  }
  EXPECT_TRUE(tower);
}

TEST(ModelSetup, BackwardPassesThroughATowerFromItsFirstAdapterOn) {
  toy::Job job;
  auto config = job.config();
  config.adapter.target_modules = {".*vision_tower.*layers.1.self_attn.q_proj"};
  config.train_scope = "lora";
  const auto model = job.load(config);
  const auto backward = has_backward(*model.layout);
  std::vector<std::string> with;
  for (const auto& unit : model.layout->units()) {
    if (backward(unit) && names_any(unit.name, {"vision_tower", "image_encoder", "mm_projector"}))
      with.push_back(unit.name);
  }
  ASSERT_GE(with.size(), 2U);  // the layer and the projector; CLIP's layers above the selected one may come between
  EXPECT_NE(with.front().find("layers.1"), std::string::npos) << with.front();
  EXPECT_NE(with.back().find("mm_projector"), std::string::npos) << with.back();
}

}  // namespace
}  // namespace tessera::train
