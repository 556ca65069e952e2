#pragma once
// Which part of a multimodal model a name belongs to, by the components of the name.
#include <algorithm>
#include <array>
#include <string>
#include <string_view>

namespace tessera::train {

// `wanted` is one component, or several that follow one another with dots between.
inline bool has_component(const std::string& name, std::string_view wanted) {
  const auto framed = "." + name + ".";
  return framed.find("." + std::string(wanted) + ".") != std::string::npos;
}

inline bool in_language_model(const std::string& name) {
  constexpr std::array kOutside{"vision_tower", "visual_model", "mm_projector", "multi_modal_projector",
                                "text_hidden_fcs"};
  return std::none_of(kOutside.begin(), kOutside.end(), [&](const char* part) { return has_component(name, part); });
}

}  // namespace tessera::train
