// The flags of what `tessera train` reads, and how its steps are cut.
#include <algorithm>

#include "tessera/core/error.hpp"
#include "tessera/data/loader.hpp"

namespace tessera::data {
namespace {

void bind_augmentation(Options& options, image::AugmentConfig& config) {
  const std::string group = "Augmentation";
  options.add("augment_flip", &config.flip,
              "probability of mirroring an image and its masks; never where the text speaks of left or right",
              {.group = group, .min = 0});
  options.add("augment_crop_min_area", &config.crop_min_area,
              "a random crop keeps between this share of the area and all of it; 1: no crop",
              {.group = group, .min = 0});
  options.add("augment_crop_aspect", &config.crop_aspect,
              "width over height of the crop lies between 1 / this and this", {.group = group, .min = 1});
  options.add("augment_scale_min", &config.scale_min, "smallest factor on both sides, after the crop",
              {.group = group, .min = 0});
  options.add("augment_scale_max", &config.scale_max, "largest such factor", {.group = group, .min = 0});
  options.add("augment_brightness", &config.brightness, "factors are drawn from max(0, 1 - this) to 1 + this",
              {.group = group, .min = 0});
  options.add("augment_contrast", &config.contrast, "likewise", {.group = group, .min = 0});
  options.add("augment_saturation", &config.saturation, "likewise", {.group = group, .min = 0});
}

}  // namespace

void bind(Options& options, LoaderConfig& config) {
  const std::string group = "Data";
  options.add("shards", &config.shards, "folders that `tessera prepare` wrote, separated by commas", {.group = group});
  options.add("dataset", &config.dataset,
              "families to train on, as sem_seg||refer_seg||vqa||reason_seg; empty: all that the shards hold",
              {.group = group});
  options.add(
      "sample_rates", &config.sample_rates,
      "how often each family is drawn, as 9,3,3,1 or 9||3||3||1; empty: 9, 3, 3, 1 for the reference's families, and "
      "with --recipe llava every sample once an epoch",
      {.group = group});
  options.add("batch_size", &config.batch_size, "images of one rank in one micro-step",
              {.group = group, .unit = "images", .min = 1});
  options.add("grad_accumulation_steps", &config.grad_accumulation_steps, "micro-steps of a step on each rank",
              {.group = group, .min = 1});
  options.add("global_batch_size", &config.global_batch_size,
              "images of a step over all ranks; with it a step is the same for any number of ranks, and "
              "grad_accumulation_steps follows from it",
              {.group = group, .unit = "images", .min = 1});
  options.add("model_max_length", &config.model_max_length,
              "positions of a conversation with its image spliced in; longer texts are cut",
              {.group = group, .unit = "tokens", .min = 1});
  options.add("group_by_modality_length", &config.group_by_modality_length,
              "LLaVA's order: every sample once an epoch, a step's micro-batches of one modality and of about the same "
              "weight; instead of the mixture by rates",
              {.group = group});
  options.add_alias("per_device_train_batch_size", "batch_size");
  options.add_alias("gradient_accumulation_steps", "grad_accumulation_steps");
  options.add("stored_features", &config.stored_features,
              "take the features of vision towers that the shards hold, and do not run these towers; false: run them",
              {.group = group});
  bind_augmentation(options, config.augment);
  options.add("workers", &config.workers, "threads of a rank that read and decode ahead; 0: one",
              {.group = group, .min = 0});
  options.add_alias("dataloader_num_workers", "workers");
  options.add("prefetch_mib", &config.prefetch_mib, "memory of a rank for samples read ahead, beyond the step in hand",
              {.group = group, .unit = "MiB", .min = 0});
}

StepShape step_shape(const LoaderConfig& config, int rank, int world) {
  if (config.batch_size < 1 || config.grad_accumulation_steps < 1) {
    throw RequestError("--batch_size {} and --grad_accumulation_steps {} must be positive", config.batch_size,
                       config.grad_accumulation_steps);
  }
  StepShape shape{config.batch_size, config.grad_accumulation_steps * world, rank, world};
  if (!config.global_batch_size) return shape;
  const auto total = *config.global_batch_size;
  const auto unit = config.batch_size * world;
  if (total < 1 || total % unit != 0) {
    throw RequestError(
        "--global_batch_size {} cannot be divided: {} ranks x --batch_size {} take multiples of {}, e.g. {}; change "
        "it, the "
        "batch size or the number of ranks",
        total, world, config.batch_size, unit, std::max<std::int64_t>(1, (total + unit - 1) / unit) * unit);
  }
  shape.micro_batches = total / config.batch_size;
  return shape;
}

}  // namespace tessera::data
