#include "data/toy.hpp"

#include <nlohmann/json.hpp>

#include "tessera/comm/solo.hpp"
#include "tessera/core/file.hpp"

namespace tessera::data::toy {

namespace fs = std::filesystem;

fs::path model_folder() {
  return fs::path(TESSERA_SOURCE_DIR) / "launch/toy/lisa";
}

namespace {
const std::vector<fs::path>& all_photographs() {
  static const auto paths = list_files(fs::path(TESSERA_SOURCE_DIR) / "datasets/sample/coco/train2017", {".jpg"});
  return paths;
}
}  // namespace

std::size_t photographs() {
  return all_photographs().size();
}
fs::path photograph(std::size_t number) {
  return all_photographs().at(number % photographs());
}

void write_reason_seg(const fs::path& root, const std::string& split, const std::vector<ReasonSegItem>& items) {
  const auto folder = root / "reason_seg/ReasonSeg" / split;
  fs::create_directories(folder);
  for (const auto& item : items) {
    fs::copy_file(photograph(item.photograph), folder / (item.name + ".jpg"));
    const nlohmann::json json = {
        {"text", item.texts}, {"is_sentence", item.is_sentence}, {"shapes", nlohmann::json::parse(item.shapes)}};
    testing_support::write_file(folder / (item.name + ".json"), json.dump(1));
  }
}

void write_small_set(const fs::path& root) {
  std::vector<ReasonSegItem> train;
  for (std::size_t i = 0; i < 12; ++i) {
    ReasonSegItem item{"train" + std::to_string(i), i, {"The Thing " + std::to_string(i)}, i % 3 == 0};
    for (std::size_t k = 0; k < i % 5; ++k) item.texts.push_back("another name " + std::to_string(k));
    if (i % 4 == 1) {
      item.shapes = R"([{"label": "target", "points": [[5, 5], [220, 8], [210.7, 190.2], [8, 180]]},
                        {"label": "ignore", "points": [[40, 40], [90, 40], [90, 90], [40, 90]]},
                        {"label": "Flag", "points": [[1, 1]]}])";
    }
    train.push_back(std::move(item));
  }
  write_reason_seg(root, "train", train);
  write_reason_seg(root, "val",
                   {{"val0", 12, {"first words", "never asked"}, false},
                    {"val1",
                     13,
                     {"What would you sit on?"},
                     true,
                     R"([{"label": "target", "points": [[5, 5], [220, 8], [210, 190]]},
                         {"label": "ignore", "points": [[40, 40], [90, 40], [90, 60]]}])"},
                    {"val2", 14, {"nothing here"}, false, "[]"}});
  testing_support::write_file(root / "reason_seg/ReasonSeg/explanatory/train.json",
                              R"([{"image": "train2.jpg", "query": "q", "outputs": "Because of this."},
                                  {"image": "train5.jpg", "query": "q", "outputs": "Because of that."}])");
}

PrepareConfig small_config(const fs::path& root, const fs::path& output) {
  PrepareConfig config;
  config.dataset_dir = root.string();
  config.dataset = "reason_seg";
  config.version = model_folder().string();
  config.output_dir = output.string();
  config.draws = 3;
  config.quiet = true;
  return config;
}

PrepareOutcome prepare(const PrepareConfig& config) {
  const auto comm = comm::make_solo();
  return run_prepare(config, *comm, Log());
}

std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  if (!fs::exists(folder)) return files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    files[entry.path().filename().string()] = testing_support::read_file(entry.path());
  }
  return files;
}

}  // namespace tessera::data::toy
