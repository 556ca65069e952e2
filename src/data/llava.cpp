#include "tessera/data/llava.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "data/dialogue.hpp"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

const std::string kFamily = "llava";

class Llava final : public Reader {
 public:
  Llava(const fs::path& path, const fs::path& folder, std::string_view name)
      : path_(path),
        folder_(folder.empty() ? path.parent_path() : folder),
        source_(fmt::format("llava/{}", name.empty() ? path.stem().string() : std::string(name))) {
    if (!fs::exists(path_)) throw RequestError("--data_path: no file '{}'", path_.string());
    for_each_sound_record(path_, problems_,
                          [this](const std::string& where, const nlohmann::json& record) { add(where, record); });
  }

  const std::string& source() const noexcept override { return source_; }
  const std::string& family() const noexcept override { return kFamily; }
  fs::path image_folder() const override { return folder_; }
  const std::vector<Item>& items() const noexcept override { return items_; }
  const std::vector<Problem>& problems() const noexcept override { return problems_; }
  std::vector<fs::path> decided_by(std::int64_t) const override { return {path_}; }

  ItemSamples make(std::int64_t item, image::Size, std::span<Choices> draws) const override {
    const auto& conversation = dialogues_.at(static_cast<std::size_t>(item));
    ItemSamples result;
    for (std::size_t i = 0; i < draws.size(); ++i) {
      Sample sample;
      sample.conversations.push_back(conversation);
      result.samples.push_back(std::move(sample));
    }
    return result;
  }

 private:
  std::vector<std::string> images_of(const std::string& where, const nlohmann::json& record) const {
    const auto found = as_object(record, path_, where).find("image");
    if (found == record.end()) return {};
    if (found->is_string()) return {image_name(*found, where + ".image")};
    std::vector<std::string> images;
    for (const auto& name : as_array(*found, path_, where + ".image")) {
      images.push_back(image_name(name, fmt::format("{}.image[{}]", where, images.size())));
    }
    return images;
  }

  std::string image_name(const nlohmann::json& value, const std::string& where) const {
    auto name = as_string(value, path_, where);
    if (name.empty()) throw BrokenSample({path_.string(), where, "an empty path"});
    return name;
  }

  void add(const std::string& where, const nlohmann::json& record) {
    auto images = images_of(where, record);
    auto conversation = read_dialogue(field(record, "conversations", path_, where), path_, where + ".conversations");
    Item item{where, "", {}};
    if (!images.empty()) {
      item.image = images.front();
      item.more_images.assign(images.begin() + 1, images.end());
    }
    items_.push_back(std::move(item));
    dialogues_.push_back(std::move(conversation));
  }

  fs::path path_;
  fs::path folder_;
  std::string source_;
  std::vector<Item> items_;
  std::vector<Conversation> dialogues_;
  std::vector<Problem> problems_;
};

}  // namespace

std::unique_ptr<Reader> llava_training(const fs::path& data_path, const fs::path& image_folder, std::string_view name) {
  return std::make_unique<Llava>(data_path, image_folder, name);
}

}  // namespace tessera::data
