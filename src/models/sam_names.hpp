#pragma once
// SAM's weights have two public namings: facebook's, which are ours, and transformers'.
#include <optional>
#include <string>

#include "tessera/io/tensor_source.hpp"

namespace tessera::models {

/// True when the file has transformers' names.
bool has_transformers_sam_names(const io::TensorSource& source);

/// facebook's name of a tensor of transformers' SamModel; nothing for the second copy of the Gaussian matrix.
/// The last layer of a perceptron is `proj_out` there and `layers.<depth-1>` here: iou_depth is the score head's.
std::optional<std::string> facebook_sam_name(std::string name, std::int64_t iou_depth);

}  // namespace tessera::models
