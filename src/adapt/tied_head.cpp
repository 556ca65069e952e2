#include "tessera/adapt/tied_head.hpp"

#include <algorithm>
#include <array>
#include <string_view>

#include "tessera/adapt/peft_config.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/model_folder.hpp"

namespace tessera::adapt {

namespace {

// Where a language model begins and ends.
constexpr std::array<std::string_view, 2> kEnds = {"embed_tokens", "lm_head"};

bool is_vocabulary(std::string_view name) {
  return std::any_of(kEnds.begin(), kEnds.end(), [&](std::string_view part) { return name.find(part) != name.npos; });
}

bool parts(const std::filesystem::path& folder) {
  const JsonView json = read_json(folder / "adapter_config.json");
  if (json.has("modules_to_save")) {
    const auto saved = json.at("modules_to_save").texts();
    const bool named = std::any_of(saved.begin(), saved.end(), is_vocabulary);
    if (!json.boolean("ensure_weight_tying", false)) {
      if (named) return true;
    } else if (std::any_of(saved.begin(), saved.end(), [](const auto& name) { return name.ends_with("lm_head"); })) {
      throw RequestError("{} with lm_head in modules_to_save is not supported, embed_tokens alone is",
                         json.at("ensure_weight_tying").where());
    }
  }
  const io::SourcePtr files = io::open_weights(folder);
  return std::any_of(files->tensors().begin(), files->tensors().end(), [](const io::TensorInfo& tensor) {
    return is_vocabulary(tensor.name) && !param_name_of_peft(tensor.name).empty();
  });
}

}  // namespace

bool parts_head(const std::vector<std::filesystem::path>& adapters) {
  return std::any_of(adapters.begin(), adapters.end(), parts);
}

io::SourcePtr with_own_head(const io::SourcePtr& files) {
  struct Names {
    std::string_view embedding, head;
  };
  constexpr std::array<Names, 3> kNames{{{"model.embed_tokens.weight", "lm_head.weight"},
                                         {"language_model.model.embed_tokens.weight", "language_model.lm_head.weight"},
                                         {"model.language_model.embed_tokens.weight", "lm_head.weight"}}};
  for (const Names& names : kNames) {
    if (files->find(std::string(names.embedding)) == nullptr) continue;
    const auto head = std::make_shared<io::RenamedSource>(files, [&](std::string_view name) {
      return name == names.embedding ? std::optional<std::string>(names.head) : std::nullopt;
    });
    return std::make_shared<io::OverlaySource>(std::vector<io::SourcePtr>{head, files});
  }
  throw RequestError(
      "an adapter on the embedding or the head, and this model's head is its embedding by the family's nature");
}

}  // namespace tessera::adapt
