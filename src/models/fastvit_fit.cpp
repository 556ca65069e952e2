// What weights say of a FastViTHD.
#include <charconv>
#include <map>
#include <tuple>

#include "tessera/core/error.hpp"
#include "tessera/models/fastvit.hpp"

namespace tessera::models {
namespace {

/// One part of a name before the next dot, as a number; -1: it is none.
std::int64_t take_number(std::string_view& name) {
  std::int64_t number = -1;
  const auto [stop, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || stop == name.data() + name.size() || *stop != '.') return -1;
  name.remove_prefix(static_cast<std::size_t>(stop - name.data()) + 1);
  return number;
}

bool take(std::string_view& name, std::string_view start) {
  if (!name.starts_with(start)) return false;
  name.remove_prefix(start.size());
  return true;
}

/// What the weights tell about one place of Apple's numbering, or one stage of timm's.
struct Place {
  bool down = false;
  bool position = false;
  std::int64_t blocks = 0;
  std::int64_t width = 0, inner = 0;
  bool attention = false;
};

void note_block(Place& place, std::string_view rest, const io::TensorInfo& tensor) {
  const std::int64_t block = take_number(rest);
  if (block < 0) return;
  place.blocks = std::max(place.blocks, block + 1);
  place.attention = place.attention || rest == "token_mixer.qkv.weight";
  if ((rest == "convffn.fc1.weight" || rest == "mlp.fc1.weight") && tensor.shape.size() == 4) {
    place.inner = tensor.shape[0];
    place.width = tensor.shape[1];
  }
}

/// The stages in order, of places in order.
std::vector<FastVitStage> stages_of(const std::map<std::int64_t, Place>& places) {
  std::vector<FastVitStage> stages;
  bool position = false;
  for (const auto& [index, place] : places) {
    position = position || place.position;
    if (place.blocks == 0) continue;
    FastVitStage stage;
    stage.blocks = place.blocks;
    stage.width = place.width;
    stage.mlp_ratio = static_cast<double>(place.inner) / static_cast<double>(std::max<std::int64_t>(1, place.width));
    stage.mixer = place.attention ? TokenMixer::attention : TokenMixer::convolution;
    stage.position = std::exchange(position, false);
    stages.push_back(stage);
  }
  return stages;
}

struct Findings {
  std::map<std::int64_t, Place> places;  // Apple's or timm's
  bool flat = false;                     // Apple's
  std::int64_t stem = 0;                 // tensors
  bool branches = false, stem_scale_branch = false;
  std::int64_t features = 0, squeeze = 0, projection = 0;
};

void note_end(Findings& found, std::string_view rest, const io::TensorInfo& tensor) {
  if (tensor.shape.size() != 4) return;
  if (rest == "reparam_conv.weight" || rest == "rbr_conv.0.conv.weight" || rest == "conv_kxk.0.conv.weight")
    found.features = tensor.shape[0];
  if (rest == "se.reduce.weight" || rest == "se.fc1.weight") found.squeeze = tensor.shape[0];
}

void note(Findings& found, const std::string& name, const io::TensorInfo& tensor) {
  std::string_view rest = name;
  if (take(rest, "patch_embed.") || take(rest, "stem.")) {
    ++found.stem;
    found.branches = found.branches || name.find(".rbr_") != name.npos || name.find(".conv_kxk.") != name.npos;
    found.stem_scale_branch =
        found.stem_scale_branch || name.find(".rbr_scale.") != name.npos || name.find(".conv_scale.") != name.npos;
  } else if (take(rest, "conv_exp.") || take(rest, "final_conv.")) {
    note_end(found, rest, tensor);
  } else if (name == "head.proj" && tensor.shape.size() == 2) {
    found.projection = tensor.shape[1];
  } else if (take(rest, "network.")) {
    found.flat = true;
    const std::int64_t index = take_number(rest);
    if (index < 0) return;
    Place& place = found.places[index];
    if (rest.starts_with("proj.")) {
      place.down = true;
    } else if (rest.starts_with("reparam_conv.") || rest.starts_with("pe.")) {
      place.position = true;
    } else {
      note_block(place, rest, tensor);
    }
  } else if (take(rest, "stages.")) {
    const std::int64_t index = take_number(rest);
    if (index < 0) return;
    Place& place = found.places[index];
    place.down = place.down || rest.starts_with("downsample.");
    place.position = place.position || rest.starts_with("pos_emb.");
    if (take(rest, "blocks.")) note_block(place, rest, tensor);
  }
}

/// The numbers that finish() gave are those the weights have.
bool places_fit(const std::vector<FastVitStage>& stages, const Findings& found) {
  std::size_t places = 0;
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const FastVitStage& stage = stages[i];
    const auto has = [&](std::int64_t flat_index, auto property) {
      const auto at = found.places.find(found.flat ? flat_index : static_cast<std::int64_t>(i));
      return at != found.places.end() && property(at->second);
    };
    if (stage.down_index >= 0 && !has(stage.down_index, [](const Place& p) { return p.down; })) return false;
    if (stage.position && !has(stage.position_index, [](const Place& p) { return p.position; })) return false;
    if (!has(stage.block_index, [](const Place& p) { return p.blocks > 0; })) return false;
    places += found.flat ? 1 + (stage.down_index >= 0) + (stage.position_index >= 0) : 1;
  }
  return places == found.places.size();
}

void require_same_sizes(const std::vector<FastVitStage>& given, const std::vector<FastVitStage>& found,
                        const std::string& where) {
  if (given.size() != found.size())
    throw RequestError("{}: the config tells {} stages, the weights have {}", where, given.size(), found.size());
  const auto sizes = [](const FastVitStage& s) { return std::tuple(s.blocks, s.width, s.inner(), s.mixer); };
  for (std::size_t i = 0; i < given.size(); ++i) {
    if (sizes(given[i]) == sizes(found[i])) continue;
    throw RequestError(
        "{}: stage {} has {} blocks of {} channels ({} inside) in the weights, {} of {} ({}) in the config", where, i,
        found[i].blocks, found[i].width, found[i].inner(), given[i].blocks, given[i].width, given[i].inner());
  }
}

}  // namespace

void FastVitConfig::fit_to_weights(const io::TensorSource& files, const std::string& part) {
  Findings found;
  std::string where;
  for (const io::TensorInfo& tensor : files.tensors()) {
    const auto at = tensor.name.find(part);
    if (at == std::string::npos) continue;
    note(found, fastvit_own_part(tensor.name.substr(at + part.size())), tensor);
    if (where.empty() && found.stem > 0) where = files.where(tensor);
  }
  if (found.stem == 0) return;
  std::vector<FastVitStage> fitted = stages_of(found.places);
  if (fitted.empty() || found.features == 0)
    throw RequestError("{}: a FastViT's stem, but no stages or no conv_exp after it", where);
  if (given_sizes) require_same_sizes(stages, fitted, where);
  stages = std::move(fitted);
  expansion = static_cast<double>(found.features) / static_cast<double>(std::max<std::int64_t>(1, stages.back().width));
  branches = found.branches;
  stem_scale_branch = found.stem_scale_branch;
  if (found.squeeze > 0) squeeze = found.squeeze;
  projection = found.projection;
  finish(where);
  if (!places_fit(stages, found))
    throw RequestError("{}: the stages of this FastViT do not follow one another as in FastViTHD", where);
}

}  // namespace tessera::models
