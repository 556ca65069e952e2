#include "tessera/data/prepare.hpp"

#include <fmt/ranges.h>

#include <optional>

#include "data/preparation.hpp"
#include "data/sources.hpp"
#include "tessera/comm/agree.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/version.hpp"
#include "tessera/data/order.hpp"
#include "tessera/data/plan.hpp"
#include "tessera/text/image_tokens.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMiB = std::int64_t{1} << 20;

/// Which towers' features are written. Their weights count, not where they lie.
std::string feature_settings(const PrepareConfig& config, const FrozenTowers* towers) {
  if (towers == nullptr) return "";
  auto text = fmt::format(" --store_features {} --precision '{}'", config.store_features, config.precision);
  for (const auto& one : towers->features()) text += fmt::format(" {} {:016x} ({})", one.name, one.tower, one.input);
  return text;
}

/// The settings that determine what is written, as flags.
std::string content_settings(const PrepareConfig& config) {
  return fmt::format(
      "--dataset {} --sem_seg_data {} --refer_seg_data {} --vqa_data {} --reason_seg_data {} --data_path '{}' "
      "--image_folder '{}' --own_data '{}' --val_dataset {} --explanatory {} "
      "--num_classes_per_sample {} --part_union {} --polygon_slack {} --conv_type {} --recipe {} --model_max_length {} "
      "--use_mm_start_end {} --shard_mib {} --draws {} --seed {}",
      config.dataset, config.sem_seg_data, config.refer_seg_data, config.vqa_data, config.reason_seg_data,
      fmt::join(config.data_path, "||"), fmt::join(config.image_folder, "||"), config.own_data, config.val_dataset,
      config.explanatory, config.num_classes_per_sample, config.part_union, config.polygon_slack, config.conv_type,
      config.recipe, config.model_max_length.value(), config.use_mm_start_end.value(), config.shard_mib, config.draws,
      config.seed);
}

text::TokenizerRules tokenizer_rules(const PrepareConfig& config) {
  const bool start_end = config.use_mm_start_end.value();
  if (config.recipe == "lisa") return text::lisa_rules(start_end);
  text::TokenizerRules rules;
  if (start_end)
    rules.add = {{.content = std::string(text::kImStartToken)}, {.content = std::string(text::kImEndToken)}};
  return rules;
}

ShardHeader make_header(const PrepareConfig& config, const text::Tokenizer& tokenizer, const FrozenTowers* towers) {
  ShardHeader header;
  header.tokenizer_hash = tokenizer.content_hash();
  header.conversation_template = config.conv_type;
  header.recipe = config.recipe;
  if (config.recipe == "lisa") header.seg_token_id = tokenizer.require_id(text::kSegToken);
  if (config.use_mm_start_end.value()) {
    header.im_start_id = tokenizer.require_id(text::kImStartToken);
    header.im_end_id = tokenizer.require_id(text::kImEndToken);
  }
  header.pad_id = tokenizer.pad_id();
  header.bos_id = tokenizer.bos_id().value_or(-1);
  header.eos_id = tokenizer.eos_id().value_or(-1);
  header.use_mm_start_end = config.use_mm_start_end.value();
  header.seed = config.seed;
  header.made_by = fmt::format("tessera {} prepare {}{}", version_string(), content_settings(config),
                               feature_settings(config, towers));
  return header;
}

Work plan_work(const PrepareConfig& config, const FrozenTowers* towers) {
  auto tokenizer = text::load_tokenizer(config.version, tokenizer_rules(config));
  auto header = make_header(config, tokenizer, towers);
  Work work{std::move(tokenizer), &text::find_template(config.conv_type), std::move(header), {}};
  work.splits.push_back({"train", config.draws, training_readers(config), {}});
  work.splits.push_back({"val", 1, validation_readers(config), {}});
  const auto settings = fmt::format("format {}.{} {} tokenizer {}", kFormatMajor, kFormatMinor, work.header.made_by,
                                    work.header.tokenizer_hash);
  for (auto& split : work.splits) {
    split.shards = plan_shards(split.name, group_by_image(config.dataset_dir, split.readers),
                               {config.shard_mib * kMiB, towers == nullptr ? 0 : towers->bytes_per_image()}, settings,
                               split.readers);
    if (!split.readers.empty() && split.shards.empty()) {
      throw RequestError("the data sets of split '{}' hold no item at all; look at --dataset_dir '{}'", split.name,
                         config.dataset_dir);
    }
  }
  return work;
}

}  // namespace

namespace {

void check_aspect(const std::string& aspect) {
  if (aspect == "square" || aspect == "pad") return;
  if (aspect.find("anyres") == std::string::npos)
    throw RequestError("--image_aspect_ratio: '{}' is not one of square, pad", aspect);
  throw RequestError(
      "--image_aspect_ratio {}: the features of tiles are not stored, since a picture has several times as many as a "
      "square; prepare without --store_features, and train runs the tower",
      aspect);
}

/// Settings of towers mean nothing without towers.
void check_features(const PrepareConfig& config) {
  const bool towers = !config.store_features.empty();
  const auto needs_towers = [&](const char* flag, bool given) {
    if (given && !towers) throw RequestError("{} has a meaning with --store_features alone", flag);
  };
  needs_towers("--vision_tower", !config.vision_tower.empty());
  needs_towers("--vision_pretrained", !config.vision_pretrained.empty());
  needs_towers("--hub_dir", !config.hub_dir.empty());
  needs_towers("--precision", !config.precision.empty());
  needs_towers("--placement", config.placement != "resident");
  needs_towers("--mm_vision_select_layer", config.mm_vision_select_layer.has_value());
  needs_towers("--mm_vision_select_feature", !config.mm_vision_select_feature.empty());
  needs_towers("--image_aspect_ratio", config.image_aspect_ratio != "square");
  check_aspect(config.image_aspect_ratio);
}

/// A LISA's config.json and its reference settle these.
void refuse_llava_settings(const PrepareConfig& config) {
  const auto refuse = [](const char* flag, bool given) {
    if (given) throw RequestError("{} has a meaning with --recipe llava alone", flag);
  };
  refuse("--mm_vision_select_layer", config.mm_vision_select_layer.has_value());
  refuse("--mm_vision_select_feature", !config.mm_vision_select_feature.empty());
  refuse("--image_aspect_ratio", config.image_aspect_ratio != "square");
}

}  // namespace

void check_settings(const PrepareConfig& config) {
  if (config.version.empty()) throw RequestError("--version: name the model folder whose tokenizer is to be used");
  if (config.output_dir.empty() && !config.check) throw RequestError("--output_dir: name the folder for the shards");
  // The families llava and own name their folders themselves.
  const bool elsewhere = !config.data_path.empty() || !config.own_data.empty();
  if (!elsewhere && !fs::is_directory(config.dataset_dir)) {
    throw RequestError("--dataset_dir: no folder '{}'", config.dataset_dir);
  }
  if (config.dataset.empty() && config.val_dataset.empty()) {
    throw RequestError("--dataset and --val_dataset are both empty: nothing to prepare");
  }
  check_features(config);
  if (config.explanatory > 1) throw RequestError("--explanatory {}: a probability is at most 1", config.explanatory);
}

TowerRequest tower_request(const PrepareConfig& config) {
  TowerRequest request;
  if (!config.store_features.empty()) request.towers = parse_names("--store_features", config.store_features);
  std::vector<std::string> left_out;
  request.recipe = with_sets_found(config, left_out).recipe;
  if (request.recipe == "lisa") refuse_llava_settings(config);
  request.model = config.version;
  request.vision_tower = config.vision_tower;
  request.vision_pretrained = config.vision_pretrained;
  request.hub_dir = config.hub_dir;
  request.aspect = config.image_aspect_ratio;
  if (!config.vision_tower.empty()) request.settings["mm_vision_tower"] = config.vision_tower;
  if (config.mm_vision_select_layer) request.settings["mm_vision_select_layer"] = *config.mm_vision_select_layer;
  if (!config.mm_vision_select_feature.empty())
    request.settings["mm_vision_select_feature"] = config.mm_vision_select_feature;
  return request;
}

PrepareOutcome run_prepare(const PrepareConfig& config, comm::Communicator& comm, const Log& log,
                           const std::string& command_line, FrozenTowers* towers) {
  std::optional<Work> work;
  PrepareConfig found;
  comm::on_every_rank(comm, [&] {
    check_settings(config);
    if (config.store_features.empty() != (towers == nullptr))
      throw RunError("prepare: --store_features '{}', and {} towers", config.store_features,
                     towers == nullptr ? "no" : "some");
    std::vector<std::string> left_out;
    found = with_sets_found(config, left_out);
    for (const auto& set : left_out) log.info("left out: {}", set);
    work.emplace(plan_work(found, towers));
  });
  return carry_out(found, *work, comm, log, command_line, towers);
}

}  // namespace tessera::data
