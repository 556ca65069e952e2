// What configs and names say of a FastViTHD.
#include <algorithm>
#include <array>
#include <charconv>

#include "json_fields.hpp"
#include "tessera/models/fastvit.hpp"

namespace tessera::models {
namespace {

constexpr std::int64_t kWidths = 96;  // of FastViTHD's first stage; each next one has twice as many
constexpr double kSqueeze = 0.0625;

/// Those of FastViTHD's sizes with other widths and another last stage (mobileclip2's L-14 is timm's mci4).
FastVitConfig network(std::int64_t first_width, std::int64_t last_blocks) {
  FastVitConfig config;
  const std::int64_t blocks[] = {2, 12, 24, 4, last_blocks};
  for (std::size_t i = 0; i < std::size(blocks); ++i) {
    FastVitStage stage;
    stage.blocks = blocks[i];
    stage.width = first_width << i;
    stage.mixer = i < 3 ? TokenMixer::convolution : TokenMixer::attention;
    stage.position = i >= 3;
    config.stages.push_back(stage);
  }
  return config;
}

/// The number of channels in squeeze-and-excite: Apple cuts the fraction off, timm rounds.
std::int64_t squeeze_of(std::int64_t width, bool rounds) {
  return std::max<std::int64_t>(1,
                                static_cast<std::int64_t>(static_cast<double>(width) * kSqueeze + (rounds ? 0.5 : 0)));
}

/// One value for each stage; absent: as in the network of that name.
template <class Set>
void read_list(const JsonFields& fields, const char* key, std::vector<FastVitStage>& stages, const Set& set) {
  if (!fields.has(key)) return;
  const auto& list = fields.json().at(key);
  if (!list.is_array() || list.empty())
    throw RequestError("{}: '{}' is {}, expected a list with a value for each stage", fields.where(), key, list.dump());
  for (std::size_t i = 0; i < std::min(list.size(), stages.size()); ++i) {
    if (!set(stages[i], list[i]))
      throw RequestError("{}: '{}' is {}: {} is not supported", fields.where(), key, list.dump(), list[i].dump());
  }
  if (list.size() < stages.size())
    throw RequestError("{}: '{}' has {} values for {} stages", fields.where(), key, list.size(), stages.size());
}

/// A ratio that is a quotient of whole numbers gives the whole number back.
std::int64_t times(std::int64_t width, double ratio) {
  return static_cast<std::int64_t>(static_cast<double>(width) * ratio + 1e-6);
}

bool positive(const nlohmann::json& value) {
  return value.is_number_integer() && value.get<std::int64_t>() >= 1 && value.get<std::int64_t>() < (1 << 20);
}

void resize_stages(const JsonFields& fields, std::vector<FastVitStage>& stages) {
  if (!fields.has("layers")) return;
  const auto& layers = fields.json().at("layers");
  if (!layers.is_array() || layers.empty() || layers.size() > 16)
    throw RequestError("{}: 'layers' is {}, expected a list with a value for each stage", fields.where(),
                       layers.dump());
  stages.resize(layers.size(), stages.back());
}

/// Settings that change the network in ways this program does not have.
void refuse_others(const JsonFields& fields) {
  for (const auto& [key, wanted] :
       {std::pair{"repmixer_kernel_size", nlohmann::json(3)}, std::pair{"down_patch_size", nlohmann::json(7)},
        std::pair{"down_stride", nlohmann::json(2)}, std::pair{"lkc_use_act", nlohmann::json(true)},
        std::pair{"use_layer_scale", nlohmann::json(true)}, std::pair{"in_chans", nlohmann::json(3)}}) {
    if (fields.has(key) && fields.json().at(key) != wanted) {
      throw RequestError("{}: '{}' is {}; only {} is supported", fields.where(), key, fields.json().at(key).dump(),
                         wanted.dump());
    }
  }
  if (fields.has("se_downsamples")) {
    for (const auto& flag : fields.json().at("se_downsamples")) {
      if (flag != false) throw RequestError("{}: 'se_downsamples' are not supported", fields.where());
    }
  }
}

/// The arguments of Apple's and of timm's constructor.
void read_arguments(const JsonFields& fields, FastVitConfig& config) {
  refuse_others(fields);
  resize_stages(fields, config.stages);
  const auto set_count = [](auto member) {
    return [member](FastVitStage& stage, const nlohmann::json& value) {
      if (positive(value)) stage.*member = value.get<std::int64_t>();
      return positive(value);
    };
  };
  read_list(fields, "layers", config.stages, set_count(&FastVitStage::blocks));
  read_list(fields, "embed_dims", config.stages, set_count(&FastVitStage::width));
  read_list(fields, "mlp_ratios", config.stages, [](FastVitStage& stage, const nlohmann::json& value) {
    if (value.is_number()) stage.mlp_ratio = value.get<double>();
    return value.is_number() && stage.mlp_ratio > 0;
  });
  read_list(fields, "token_mixers", config.stages, [](FastVitStage& stage, const nlohmann::json& value) {
    stage.mixer = value == "attention" ? TokenMixer::attention : TokenMixer::convolution;
    return value == "attention" || value == "repmixer";
  });
  // Not a setting of the sources, whose values are functions: whether there is one.
  read_list(fields, "pos_embs", config.stages, [](FastVitStage& stage, const nlohmann::json& value) {
    stage.position = !value.is_null() && value != false;
    return value.is_null() || value.is_boolean();
  });
  config.expansion = fields.number("cls_ratio", config.expansion);
  for (const char* key : {"layers", "embed_dims", "mlp_ratios", "token_mixers", "cls_ratio"}) {
    config.given_sizes = config.given_sizes || fields.has(key);
  }
  config.branches = !fields.flag("inference_mode", !config.branches);
  config.stem_scale_branch =
      fields.flag(fields.has("stem_scale_branch") ? "stem_scale_branch" : "stem_use_scale_branch", false);
}

FastVitConfig from_timm(const nlohmann::json& json) {
  const JsonFields fields(json, "config.json");
  const std::string name = fields.text("architecture", std::nullopt);
  const std::string plain = name.substr(0, name.find('.'));
  if (plain != "fastvit_mci3" && plain != "fastvit_mci4")
    throw RequestError(
        "config.json: architecture '{}' is not supported; of FastViT's, fastvit_mci3 and fastvit_mci4 are", name);
  FastVitConfig config = plain == "fastvit_mci3" ? FastVitConfig::hd() : network(128, 4);
  config.branches = true;  // timm's default
  config.projection = 0;   // a classifier of its own
  if (fields.has("model_args")) read_arguments({json.at("model_args"), "config.json: model_args"}, config);
  config.squeeze = squeeze_of(config.width(), true);
  config.finish("config.json");
  return config;
}

bool is_name(const nlohmann::json& json, const char* key, std::string_view name) {
  return json.contains(key) && json.at(key).is_string() && json.at(key).get<std::string>() == name;
}

}  // namespace

std::int64_t FastVitStage::inner() const {
  return times(width, mlp_ratio);
}

FastVitConfig FastVitConfig::hd() {
  FastVitConfig config = network(kWidths, 2);
  config.finish("FastViTHD");
  return config;
}

FastVitConfig FastVitConfig::from_json(const nlohmann::json& json) {
  const JsonFields fields(json, "config.json");
  if (fields.has("architecture")) return from_timm(json);
  FastVitConfig config = hd();
  if (fields.has("image_cfg")) {
    const JsonFields image(json.at("image_cfg"), "config.json: image_cfg");
    const std::string name = image.text("model_name", "fastvithd");
    if (name != "fastvithd")
      throw RequestError("config.json: image_cfg: model_name '{}' is not supported; supported is fastvithd", name);
    config.image_size = image.integer("image_size", config.image_size);
    read_arguments(image, config);
    config.projection = fields.integer("embed_dim", config.projection, 0);
  } else {
    config.image_size = fields.integer("image_size", config.image_size);
    config.projection = fields.integer("projection_dim", config.projection, 0);
    read_arguments(fields, config);
  }
  config.squeeze = squeeze_of(config.width(), false);
  config.finish("config.json");
  return config;
}

std::optional<FastVitConfig> FastVitConfig::from_name(const std::string& name) {
  constexpr std::string_view kFamily = "mobileclip";
  const auto at = name.find(kFamily);
  if (at == std::string::npos) return std::nullopt;
  constexpr std::string_view kLarge = "mobileclip_l_";
  const std::string_view plain = std::string_view(name).substr(at);
  std::int64_t side = 0;
  if (plain.starts_with(kLarge)) {
    const char* const end = plain.data() + plain.size();
    const auto [stop, error] = std::from_chars(plain.data() + kLarge.size(), end, side);
    if (error != std::errc() || stop != end) side = 0;
  }
  if (side < 1 || side > (1 << 16)) {
    throw RequestError(
        "vision tower '{}': of the mobileclip towers mobileclip_l_N is supported, N pixels a side "
        "(mobileclip_l_1024)",
        name);
  }
  FastVitConfig config = hd();
  config.image_size = side;
  return config;
}

void FastVitConfig::finish(const std::string& where) {
  std::int64_t index = 0;
  for (std::size_t i = 0; i < stages.size(); ++i) {
    FastVitStage& stage = stages[i];
    stage.down_index = i > 0 ? index++ : -1;
    stage.position_index = stage.position ? index++ : -1;
    stage.block_index = index++;
    if (stage.mixer == TokenMixer::attention) require_divides(where, "the heads'", kHeadWidth, "width", stage.width);
    if (i > 0) require_divides(where, "width", stages[i - 1].width, "the next stage's", stage.width);
  }
  require_divides(where, "the last stage's width", stages.back().width, "the features' width", width());
}

std::int64_t FastVitConfig::width() const {
  return times(stages.back().width, expansion);
}

std::int64_t FastVitConfig::map_side(std::int64_t pixels) const {
  for (std::size_t halvings = 0; halvings < 1 + stages.size(); ++halvings) pixels = (pixels + 1) / 2;
  return pixels;
}

std::int64_t FastVitConfig::tokens() const {
  return map_side(image_size) * map_side(image_size);
}

bool is_fastvit_config(const nlohmann::json& json) {
  if (!json.is_object()) return false;
  if (json.contains("text_config") || json.contains("mm_vision_tower")) return false;
  const auto architecture = json.find("architecture");
  if (architecture != json.end() && architecture->is_string())
    return architecture->get<std::string>().starts_with("fastvit");
  if (json.contains("image_cfg") && json.at("image_cfg").is_object())
    return is_name(json.at("image_cfg"), "model_name", "fastvithd");
  for (const char* key : {"model_type", "model_name"}) {
    for (const char* name : {"fastvithd", "fastvit", "mobileclip_l"}) {
      if (is_name(json, key, name)) return true;
    }
  }
  return false;
}

}  // namespace tessera::models
