// LLaVA behind `tessera forward`.
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include "forward_language.hpp"
#include "tessera/core/error.hpp"
#include "tessera/models/llava.hpp"
#include "tessera/models/llava_folder.hpp"

namespace tessera::models {
namespace {

/// The pictures of a batch as the inputs have them: `images` of the original form, `pixel_values` of transformers'.
struct Pictures {
  at::Tensor images;  ///< [N,3,S,S]; undefined: text alone
  bool original = false;
  at::Tensor sizes;                 ///< i64 [I,2] height, width before any resizing; undefined: the pictures come whole
  std::vector<std::int64_t> tiles;  ///< of each; empty: as their sizes ask for
};

Pictures take_pictures(Inputs& inputs) {
  Pictures out;
  const at::Tensor original = inputs.take_optional("images", 4);
  const at::Tensor expanded = inputs.take_optional("pixel_values", -1);
  if (original.defined() && expanded.defined())
    throw RequestError("inputs: 'images' (one -200 each) and 'pixel_values' (a placeholder id per feature) at once");
  out.original = original.defined();
  out.images = out.original ? original : expanded;
  out.sizes = inputs.take_optional("image_sizes", 2);
  if (inputs.has("image_tiles")) out.tiles = inputs.take_integers("image_tiles");
  if (!out.tiles.empty() && !out.sizes.defined())
    throw RequestError("inputs: 'image_tiles' needs 'image_sizes', the pictures' own heights and widths");
  return out;
}

std::vector<TiledPicture> describe(const Pictures& given, const TileConfig& config) {
  if (given.sizes.is_floating_point()) throw RequestError("inputs: 'image_sizes' must be integers");
  const at::Tensor sizes = given.sizes.to(at::kCPU, at::kLong).contiguous();
  if (sizes.size(1) != 2 || (!given.tiles.empty() && std::ssize(given.tiles) != sizes.size(0)))
    throw RequestError("inputs: 'image_sizes' must be [pictures,2] (height, width), 'image_tiles' [pictures]");
  const auto* values = sizes.const_data_ptr<std::int64_t>();
  std::vector<TiledPicture> pictures;
  for (std::int64_t i = 0; i < sizes.size(0); ++i) {
    const image::Size size{values[2 * i], values[2 * i + 1]};
    if (!given.tiles.empty()) {
      pictures.push_back({given.tiles[static_cast<std::size_t>(i)], size});
    } else {
      if (size.height < 1 || size.width < 1)
        throw RequestError("inputs: 'image_sizes': picture {} is {} x {}", i, size.height, size.width);
      pictures.push_back(config.picture(size));
    }
  }
  return pictures;
}

/// [I,M,3,S,S], each picture's tiles first, to [N,3,S,S].
at::Tensor without_padding(const at::Tensor& padded, const std::vector<TiledPicture>& pictures) {
  std::vector<at::Tensor> tiles{padded.new_zeros({0, padded.size(2), padded.size(3), padded.size(4)})};
  if (padded.size(0) != std::ssize(pictures))
    throw RequestError("inputs: 'pixel_values' has {} pictures, 'image_sizes' {}", padded.size(0), pictures.size());
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    if (pictures[i].tiles > padded.size(1))
      throw RequestError("inputs: 'pixel_values': picture {} needs {} tiles, there is room for {}", i,
                         pictures[i].tiles, padded.size(1));
    tiles.push_back(padded[static_cast<std::int64_t>(i)].narrow(0, 0, pictures[i].tiles));
  }
  return at::cat(tiles);
}

/// Fills images, pictures and the form.
void put_pictures(const Pictures& given, const LlavaConfig& config, const LanguageInputs& text, LlavaBatch& batch) {
  batch.expanded = !given.original;
  batch.images = given.images;
  if (given.sizes.defined()) {
    if (!config.tiles) {
      throw RequestError(
          "inputs: 'image_sizes' is for pictures in tiles; this config.json's image_aspect_ratio is not "
          "anyres");
    }
    batch.pictures = describe(given, *config.tiles);
  } else if (given.images.defined() && !given.original && config.tiles && config.image_token >= 0) {
    throw RequestError("inputs: 'image_sizes' is missing: the pictures' own heights and widths");
  }
  // Text alone stays as it is, in the original form as well.
  if (!batch.images.defined()) {
    const std::int64_t side = config.tower.image_size();
    batch.images = at::zeros({0, 3, side, side}, text.ids.options().dtype(at::kFloat));
  }
  if (batch.images.dim() == 5 && given.sizes.defined()) batch.images = without_padding(batch.images, batch.pictures);
}

class LlavaForward final : public ForwardModel {
 public:
  LlavaForward(const LlavaFolder& folder, const io::SourcePtr& files) : model_(layout_, folder.llava) {
    set_weights(files, [config = folder.llava](const std::string& name) { return llava_layout_name(name, config); });
  }

  Result compute(const TensorMap& given, nn::UnitRunner& runner) const override {
    Inputs inputs(given);
    const LanguageInputs text = take_language_inputs(inputs);
    const Pictures pictures = take_pictures(inputs);
    inputs.finish();

    LlavaBatch batch;
    batch.input_ids = text.ids;
    if (text.mask.defined()) batch.attention_mask = text.mask.to(at::kBool);
    batch.labels = text.labels;
    put_pictures(pictures, model_.config(), text, batch);
    const LlavaSequence sequence = model_.embed(batch, runner, {});
    Result result =
        run_language(model_.language(), sequence.embeddings, {sequence.mask, sequence.labels, text.cotangent}, runner);
    result.outputs["image_features"] = sequence.image_features.detach();
    result.outputs["expanded_attention_mask"] =
        sequence.mask.to(text.mask.defined() ? text.mask.scalar_type() : at::kLong);
    if (sequence.labels.defined()) result.outputs["expanded_labels"] = sequence.labels;
    return result;
  }

 private:
  LlavaModel model_;
};

}  // namespace

std::unique_ptr<ForwardModel> open_llava(const ForwardRequest& request) {
  LlavaFolderRequest folder;
  folder.folder = request.model;
  folder.vision_tower = request.vision_tower;
  folder.hub_dir = request.hub_dir;
  LlavaFolder found = read_llava_folder(folder);
  const io::SourcePtr files = untied_for(request.adapters, found.llava.language, open_llava_weights(found));
  found.llava.language.fit_to_weights(*files);
  return std::make_unique<LlavaForward>(found, files);
}

}  // namespace tessera::models
