#pragma once
/// Folds a FastViTHD as trained (convolutions as sums of branches with batch norms) into its published form, one
/// convolution for each sum, as the sources' own `reparameterize` does. The model computes the same.
#include <cstdint>
#include <filesystem>

namespace tessera::models {

struct ReparameterizeRequest {
  std::filesystem::path model;   ///< a tower's folder, or that of a LLaVA whose weights contain the tower
  std::filesystem::path output;  ///< created; must not be the model's folder
};
struct ReparameterizeReport {
  std::int64_t tensors = 0;  ///< written
  std::int64_t folded = 0;   ///< convolutions
  std::int64_t bytes = 0;
};

/// Writes the folded model folder: every other weight as it is, in blocks; kernels folded in fp64 and written in the
/// type of their branches, under the names of the naming the files have; config.json (its `inference_mode` set where
/// the naming has one) and every other file that is no weight. Throws RequestError: no FastViTHD there, nothing to
/// fold, weights that are missing.
ReparameterizeReport reparameterize_folder(const ReparameterizeRequest& request);

}  // namespace tessera::models
