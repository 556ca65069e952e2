// For shard_format_test.py: `data_prepared make DIR` prepares a small data set in DIR/data to DIR/shards;
// `data_prepared read SHARD` checks a shard that another program wrote and reads a batch from it.
#include <cstdio>

#include "data/toy.hpp"
#include "tessera/core/error.hpp"
#include "tessera/data/loader.hpp"

namespace tessera::data {
namespace {

void make(const std::filesystem::path& dir) {
  std::vector<toy::ReasonSegItem> items;
  for (std::size_t i = 0; i < 6; ++i) {
    items.push_back({"item" + std::to_string(i),
                     i,
                     {"one", "two"},
                     i % 2 == 0,
                     R"([{"label": "target", "points": [[10, 20], [200.9, 20], [200.9, 101], [10, 101]]}])"});
  }
  toy::write_reason_seg(dir / "data", "train", items);
  auto config = toy::small_config(dir / "data", dir / "shards");
  config.val_dataset = "";
  config.explanatory = -1;
  toy::prepare(config);
}

void read(const std::string& shard) {
  const auto shards = Shards::open(shard, "train", {});
  for (const auto& file : shards.files()) {
    for (const auto& fault : file.verify()) throw RequestError("{}", fault);
  }
  LoaderConfig config;
  config.batch_size = 2;
  config.global_batch_size = 4;
  InputSpec spec;
  spec.sam_size = 64;
  Loader loader(config, spec, shards, 1, 0, 1);
  const auto step = loader.next();
  std::printf("samples %lld, family %s, masks %lld, labels %lld\n", static_cast<long long>(shards.size()),
              shards.family_of(0).c_str(), static_cast<long long>(step.masks()),
              static_cast<long long>(step.label_tokens()));
}

}  // namespace
}  // namespace tessera::data

int main(int argc, char** argv) {
  try {
    if (argc == 3 && std::string(argv[1]) == "make") {
      tessera::data::make(argv[2]);
    } else if (argc == 3 && std::string(argv[1]) == "read") {
      tessera::data::read(argv[2]);
    } else {
      return 2;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
