#include "tessera/data/refer_seg.hpp"

#include <fmt/format.h>

#include <map>
#include <unordered_map>

#include "data/annotation_json.hpp"
#include "data/coco.hpp"
#include "data/phrases.hpp"
#include "data/refs_file.hpp"
#include "tessera/text/lisa_templates.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

const std::string kFamily = "refer_seg";

/// One sentence about an image, and the annotations it names.
struct Expression {
  std::string text;
  std::vector<std::int64_t> ann_ids;
  std::string where;
};

std::string images_of(std::string_view set) {
  return set == "refclef" ? "images/saiapr_tc-12/" : "images/mscoco/images/train2014/";
}

fs::path refs_path(const fs::path& folder, std::string_view set, std::string_view split_by) {
  const auto stem = fmt::format("{}({})", set == "grefcoco" ? "grefs" : "refs", split_by);
  for (const char* suffix : {".p", ".json"}) {
    if (fs::exists(folder / (stem + suffix))) return folder / (stem + suffix);
  }
  throw RequestError("referring set '{}': no '{}.p' (or .json) in '{}'", set, stem, folder.string());
}

class ReferSeg final : public Reader {
 public:
  /// `root` holds the set's folder and `images/`, relative to the data set folder ("" or "refer_seg/").
  ReferSeg(const fs::path& dataset_dir, const std::string& root, std::string_view set, std::string_view split_by,
           std::string_view split, std::int64_t sentences)
      : source_(fmt::format("refer_seg/{}/{}", set, split)), sentences_(sentences) {
    const auto folder = dataset_dir / root / set;
    coco_ = read_coco(folder / "instances.json");
    problems_ = coco_.problems;
    const auto refs = read_refs(refs_path(folder, set, split_by));
    refs_path_ = refs.path;
    problems_.insert(problems_.end(), refs.problems.begin(), refs.problems.end());
    std::unordered_map<std::int64_t, std::size_t> row_of;
    for (const auto& ref : refs.refs) {
      if (!in_split(ref.split, split)) continue;
      const auto image = coco_.image_row.find(ref.image_id);
      if (image == coco_.image_row.end()) {
        problems_.push_back(
            {refs.path.string(), ref.where, fmt::format("image {} is not in {}", ref.image_id, coco_.path.string())});
        continue;
      }
      const auto [at, fresh] = row_of.try_emplace(ref.image_id, items_.size());
      if (fresh) {
        const auto& file_name = coco_.images[image->second].file_name;
        items_.push_back({fmt::format("image {}", ref.image_id), root + images_of(set) + file_name});
        sizes_.push_back(coco_.images[image->second].size);
        expressions_.emplace_back();
      }
      for (const auto& sentence : ref.sentences) expressions_[at->second].push_back({sentence, ref.ann_ids, ref.where});
    }
  }

  const std::string& source() const noexcept override { return source_; }
  const std::string& family() const noexcept override { return kFamily; }
  const std::vector<Item>& items() const noexcept override { return items_; }
  const std::vector<Problem>& problems() const noexcept override { return problems_; }
  std::vector<fs::path> decided_by(std::int64_t) const override { return {coco_.path, refs_path_}; }

  ItemSamples make(std::int64_t item, image::Size size, std::span<Choices> draws) const override {
    const auto row = static_cast<std::size_t>(item);
    const auto& all = expressions_.at(row);
    if (sizes_[row] != size) {
      throw BrokenSample({coco_.path.string(), items_[row].name,
                          fmt::format("the image is {} x {} pixels, the annotations say {} x {}", size.width,
                                      size.height, sizes_[row].width, sizes_[row].height)});
    }
    ItemSamples result;
    std::map<std::vector<std::int64_t>, std::int32_t> mask_of_ids;
    for (auto& choices : draws) {
      Sample sample;
      sample.is_sentence = 0;
      for (const auto i : picked(static_cast<std::int64_t>(all.size()), choices)) {
        const auto& expression = all[static_cast<std::size_t>(i)];
        sample.conversations.push_back(conversation(expression.text, choices));
        const auto [at, fresh] =
            mask_of_ids.try_emplace(expression.ann_ids, static_cast<std::int32_t>(result.masks.size()));
        if (fresh) result.masks.push_back(union_of(expression, size));
        sample.targets.push_back(at->second);
      }
      result.samples.push_back(std::move(sample));
    }
    return result;
  }

 private:
  bool validation() const { return sentences_ == 0; }

  std::vector<std::int64_t> picked(std::int64_t count, Choices& choices) const {
    return validation() ? in_order(count) : pick_up_to(count, sentences_, choices);
  }

  Conversation conversation(const std::string& sentence, Choices& choices) const {
    const auto phrase = text::lower(strip(sentence));
    if (validation()) return {{text::validation_question(phrase, false), std::string(text::kValidationAnswer)}, phrase};
    return short_question(phrase, choices);
  }

  image::Rle union_of(const Expression& expression, image::Size size) const {
    std::vector<image::Rle> parts;
    for (const auto id : expression.ann_ids) {
      if (id == -1) continue;  // gRefCOCO: the expression names nothing here
      const auto at = coco_.annotation_row.find(id);
      if (at == coco_.annotation_row.end()) {
        throw BrokenSample({coco_.path.string(), expression.where, fmt::format("annotation {} does not exist", id)});
      }
      parts.push_back(mask_of(coco_.annotations[at->second], size, coco_.path));
    }
    return parts.empty() ? empty_mask(size) : image::rle_merge(parts);
  }

  std::string source_;
  std::int64_t sentences_;  ///< of a sample; 0: all, in order, with the words of validation
  CocoFile coco_;
  fs::path refs_path_;
  std::vector<Item> items_;
  std::vector<image::Size> sizes_;
  std::vector<std::vector<Expression>> expressions_;  ///< of each item
  std::vector<Problem> problems_;
};

void check_set(std::string_view set) {
  for (const char* known : {"refclef", "refcoco", "refcoco+", "refcocog", "grefcoco"}) {
    if (set == known) return;
  }
  throw RequestError("no referring set is called '{}'; there are refclef, refcoco, refcoco+, refcocog, grefcoco", set);
}

}  // namespace

bool in_split(std::string_view stored, std::string_view wanted) {
  if (wanted == "testA" || wanted == "testB" || wanted == "testC")
    return stored.find(wanted.back()) != std::string_view::npos;
  if (wanted == "test") return stored.find("test") != std::string_view::npos;
  return stored == wanted;
}

std::unique_ptr<Reader> refer_seg_training(const fs::path& dataset_dir, std::string_view set, std::int64_t sentences) {
  check_set(set);
  return std::make_unique<ReferSeg>(dataset_dir, "refer_seg/", set, set == "refcocog" ? "umd" : "unc", "train",
                                    sentences);
}

std::unique_ptr<Reader> refer_seg_validation(const fs::path& dataset_dir, std::string_view set,
                                             std::string_view split_by, std::string_view split) {
  check_set(set);
  const std::string root = fs::is_directory(dataset_dir / "refer_seg" / set) ? "refer_seg/" : "";
  return std::make_unique<ReferSeg>(dataset_dir, root, set, split_by, split, 0);
}

}  // namespace tessera::data
