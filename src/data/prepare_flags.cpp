// The flags of `tessera prepare`.
#include "tessera/data/prepare.hpp"

namespace tessera::data {
namespace {

void bind_data(Options& options, PrepareConfig& config) {
  const std::string data = "Data sets";
  options.add("dataset_dir", &config.dataset_dir, "folder of the data sets, in LISA's layout", {.group = data});
  options.add("dataset", &config.dataset,
              "families of training data, as sem_seg||refer_seg||vqa||reason_seg||llava||own; auto: those whose files "
              "are there; empty: none",
              {.group = data});
  options.add("reason_seg_data", &config.reason_seg_data,
              "ReasonSeg set and splits for training, as ReasonSeg|train or ReasonSeg|train_val", {.group = data});
  options.add("sem_seg_data", &config.sem_seg_data, "semantic sets for training, separated by ||", {.group = data});
  options.add("part_union", &config.part_union,
              "PACO-LVIS and Pascal-Part: the mask of a class is the union of its instances; the reference takes the "
              "one it drew",
              {.group = data});
  options.add("refer_seg_data", &config.refer_seg_data, "referring sets for training, separated by ||",
              {.group = data});
  options.add("vqa_data", &config.vqa_data, "LLaVA dialogues for training, a file of llava_dataset/ without .json",
              {.group = data});
  options.add("data_path", &config.data_path,
              "conversation files (JSON) of the family llava, as A B or A||B; of a file that is there twice every "
              "record counts "
              "twice",
              {.group = data});
  options.add("image_folder", &config.image_folder,
              "folder of their images, or one for each file, in the same order; empty: where the file lies",
              {.group = data});
  options.add("own_data", &config.own_data, "folders of one's own data (family own), separated by ||", {.group = data});
  options.add("val_dataset", &config.val_dataset,
              "set and split for validation, as ReasonSeg|val, or own|FOLDER; auto: ReasonSeg|val where it is there; "
              "empty: none",
              {.group = data});
  options.add("explanatory", &config.explanatory,
              "probability that an explanation alone answers, where there is one; -1: no explanations",
              {.group = data});
  options.add("num_classes_per_sample", &config.num_classes_per_sample,
              "conversations about one image in a sample, at most", {.group = data, .min = 1});
  options.add("polygon_slack", &config.polygon_slack, "how far a polygon may reach beyond its image",
              {.group = data, .unit = "pixels", .min = 0});
}

void bind_text(Options& options, PrepareConfig& config) {
  const std::string text = "Text";
  options.add("version", &config.version, "model folder whose tokenizer is used", {.group = text});
  options.add("conv_type", &config.conv_type, "conversation template", {.group = text});
  options.add("recipe", &config.recipe,
              "whose rules make the labels; lisa: one image a conversation, masks; llava: any number of images, no "
              "masks; auto: llava where --dataset asks for llava alone",
              {.group = text, .choices = {"auto", "lisa", "llava"}});
  options.add("model_max_length", &config.model_max_length,
              "length up to which the reference checks a text's tokens against its labels; default 512, with recipe "
              "llava 2048",
              {.group = text, .unit = "tokens", .min = 1});
  options.add("use_mm_start_end", &config.use_mm_start_end,
              "put <im_start> and <im_end> around the image; default true, with recipe llava false", {.group = text});
}

void bind_features(Options& options, PrepareConfig& config) {
  const std::string group = "Stored features";
  options.add(
      "store_features", &config.store_features,
      "vision towers that are run now, once, and whose outputs are stored in the shards: clip, sam or clip,sam; "
      "training then does without them, and without augmentation; empty: none",
      {.group = group});
  options.add("vision_tower", &config.vision_tower, "CLIP folder; empty: what the model's config.json names",
              {.group = group});
  options.add("vision_pretrained", &config.vision_pretrained,
              "SAM weights (.pth or .safetensors); empty: those in the model folder", {.group = group});
  options.add("hub_dir", &config.hub_dir, "where names that are no folders are looked up", {.group = group});
  options.add("mm_vision_select_layer", &config.mm_vision_select_layer,
              "recipe llava: hidden state of the tower that is taken; default: as config.json says", {.group = group});
  options.add("mm_vision_select_feature", &config.mm_vision_select_feature,
              "recipe llava: patch or cls_patch; empty: as config.json says", {.group = group});
  options.add("image_aspect_ratio", &config.image_aspect_ratio,
              "recipe llava: how an image becomes a square: square, cut; pad, padded", {.group = group});
  options.add("precision", &config.precision, "of the towers' arithmetic; empty: bf16 on GPUs, fp32 on CPUs",
              {.group = group, .choices = {"", "fp32", "bf16", "fp16"}});
  options.add("placement", &config.placement,
              "resident: every rank holds the towers whole; world: they are cut over the ranks and gathered block by "
              "block",
              {.group = group, .choices = {"resident", "world"}});
}

void bind_output(Options& options, PrepareConfig& config) {
  const std::string output = "Output";
  options.add("output_dir", &config.output_dir, "folder for the shards and their manifest", {.group = output});
  options.add("shard_mib", &config.shard_mib, "size of a shard", {.group = output, .unit = "MiB", .min = 1});
  options.add("draws", &config.draws, "random variants of a training item that are written, so that epochs differ",
              {.group = output, .min = 1});
  options.add("seed", &config.seed, "of the random choices", {.group = output});
  options.add("workers", &config.workers, "threads of a rank that read, check and tokenise",
              {.group = output, .min = 1});
  options.add("quiet", &config.quiet, "no progress bar", {.group = output});
  options.add("strict", &config.strict, "a broken sample ends the run with status 2, and nothing is written",
              {.group = output});
  options.add("check", &config.check, "read and check everything, write nothing", {.group = output});
}

}  // namespace

void bind(Options& options, PrepareConfig& config) {
  bind_data(options, config);
  bind_text(options, config);
  bind_features(options, config);
  bind_output(options, config);
}

}  // namespace tessera::data
