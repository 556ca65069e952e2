#pragma once
/// FastViTHD, the vision tower of FastVLM (mobileclip_l): a stem, stages of convolutional and of attention blocks with
/// a downsampling before each, and a final expansion of the channels. Apple's names.
///
/// It has two forms. As trained, its convolutions are sums of branches, each with a batch norm ("branches"); as
/// published, every sum is one convolution ("folded"). Batch norms use their running statistics in both forms, in
/// training too: a frozen tower must not drift, and statistics of a rank's own images would make a step depend on the
/// number of ranks. A sum of branches is therefore one convolution as well, whose kernel is put together at each call;
/// gradients reach every branch through it.
///
/// Shapes: N images of H x W, C channels, h,w sides of a feature map (halved, rounded up, by every stride of 2).
/// Source: apple/ml-fastvlm mobileclip/mci.py; timm fastvit.py (fastvit_mci3, fastvit_mci4).
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tessera/io/tensor_source.hpp"
#include "tessera/nn/context.hpp"
#include "tessera/nn/runner.hpp"

namespace tessera::models {

enum class TokenMixer : std::uint8_t { convolution, attention };

struct FastVitStage {
  std::int64_t blocks = 1;
  std::int64_t width = 96;
  TokenMixer mixer = TokenMixer::convolution;
  double mlp_ratio = 4;
  bool position = false;  ///< a convolution of positions goes before the blocks
  // Places in Apple's flat numbering, network.0, network.1, …; -1: there is none.
  std::int64_t down_index = -1;
  std::int64_t position_index = -1;
  std::int64_t block_index = -1;

  std::int64_t inner() const;  ///< channels inside the feed-forward part
};

struct FastVitConfig {
  static constexpr std::int64_t kHeadWidth = 32;  ///< of attention; widths of such stages are multiples

  std::vector<FastVitStage> stages;
  bool branches = false;           ///< the form as trained
  bool stem_scale_branch = false;  ///< as trained: the stem's 3x3 convolutions have a 1x1 branch
  double expansion = 2;            ///< of the channels after the last stage
  std::int64_t squeeze = 192;      ///< channels inside the squeeze-and-excite of the expansion
  std::int64_t projection = 768;   ///< columns of head.proj, which is in files and never used; 0: it is not there
  std::int64_t image_size = 1024;
  bool given_sizes = false;  ///< a config told the stages' sizes; otherwise weights do, where there are any

  /// FastViTHD as published.
  static FastVitConfig hd();
  /// A tower's settings in any of: Apple's ({"image_cfg": {"model_name": "fastvithd", …}}, its constructor's arguments
  /// beside), timm's ({"architecture": "fastvit_mci3"|"fastvit_mci4", "model_args": {…}}), or those arguments alone.
  /// Throws RequestError naming the key.
  static FastVitConfig from_json(const nlohmann::json& json);
  /// "mobileclip_l_1024": the network and the side of its pictures. Nothing for the name of another tower. Throws
  /// RequestError for a mobileclip of another size.
  static std::optional<FastVitConfig> from_name(const std::string& name);
  /// Takes from weights of any naming what a config need not say: the form, head.proj, and the stages' sizes where none
  /// were given. part: what the names of the tower's weights contain; empty: all are the tower's. No such weights:
  /// nothing changes. Throws RequestError for stages that do not follow one another.
  void fit_to_weights(const io::TensorSource& files, const std::string& part = "");
  /// Numbers the stages and checks what belongs together. Throws RequestError.
  void finish(const std::string& where);

  std::int64_t width() const;                        ///< channels of the features
  std::int64_t map_side(std::int64_t pixels) const;  ///< of the feature map
  std::int64_t tokens() const;                       ///< of an image of image_size
};

/// Is this the config.json of such a tower (and of nothing else)?
bool is_fastvit_config(const nlohmann::json& json);

/// Our name ("model.patch_embed.0.…") of a tensor of the tower in Apple's, timm's, transformers' or open_clip's naming;
/// nothing for what the network has not: counters of batch norms, a classifier, a text tower.
std::optional<std::string> fastvit_name(const std::string& name, const FastVitConfig& config);

/// The part of a weight's name that is the tower's own, whatever it lies in: "stem.0.…", "network.4.…".
std::string fastvit_own_part(const std::string& name);

/// A convolution that `fold` makes of branches.
struct FastVitFold {
  std::string name;                 ///< of the folded one, without ".weight": "model.patch_embed.0.reparam_conv"
  std::vector<std::int64_t> shape;  ///< of the kernel
  std::vector<nn::Param> sources;
  /// Kernel [out, in/groups, k, k] and bias [out] from the sources' values, in fp32 or, where those are f64, in f64.
  std::function<std::pair<at::Tensor, at::Tensor>()> fold;
};

class FastVit {
 public:
  /// Adds the tower's units under `prefix` ("…vision_tower.model", or "model").
  FastVit(nn::ModelLayout& layout, const FastVitConfig& config, const std::string& prefix);
  ~FastVit();
  FastVit(FastVit&&) noexcept;

  /// pixels f32 [N,3,H,W], any H and W, N may be 0, to the feature map [N,C,h,w]. Collective when the runner is.
  /// Throws RequestError when that is not their shape.
  at::Tensor forward(const at::Tensor& pixels, nn::UnitRunner& runner, const nn::ForwardContext& ctx) const;
  /// The tokens of a feature map, row by row: [N, h*w, C].
  static at::Tensor tokens(const at::Tensor& map) { return map.flatten(2).transpose(1, 2); }

  const FastVitConfig& config() const;
  /// What folding makes of it; empty for the folded form.
  std::vector<FastVitFold> folds() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace tessera::models
