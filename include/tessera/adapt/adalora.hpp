#pragma once
/// AdaLoRA: W + scaling * B diag(E) A, where the budget of all layers shrinks from init_r to target_r triplets a layer
/// while training goes on, and goes to the layers whose triplets matter most. Nothing here communicates; tensors are
/// whole.
/// Shapes: r = init_r triplets of a layer, in and out its sizes: A [r, in], E [r, 1], B [out, r].
/// Source: arXiv:2303.10512; huggingface/peft tuners/adalora (RankAllocator, SVDLinear), whose choices these are:
/// scaling is alpha / (init_r + 1e-5), also when few triplets are left; a triplet that the budget leaves out has E = 0
/// and may come back until the schedule ends.
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace at {
class Tensor;
}

namespace tessera::adapt {

/// Names are PEFT's (adapter_config.json). Steps count from 1.
struct AdaLoraConfig {
  std::int64_t target_r = 8;  ///< triplets a layer has in the end, on average
  std::int64_t init_r = 12;
  std::int64_t tinit = 0;    ///< steps before the budget begins to shrink
  std::int64_t tfinal = 0;   ///< steps at the end in which it stays as it is
  std::int64_t delta_t = 1;  ///< steps from one allocation to the next
  double beta1 = 0.85;       ///< of the moving average of sensitivities
  double beta2 = 0.85;       ///< of the moving average of their uncertainty
  double orth_reg_weight = 0.5;
  std::int64_t total_step = 0;
  /// Which triplets each layer has left, by its full name; empty before the first allocation. A layer that was read
  /// from a file has the true ones alone.
  std::map<std::string, std::vector<bool>> rank_pattern;

  /// Throws RequestError naming what no schedule can be made of.
  void check() const;
};

/// What the schedule allows at a step.
struct RankBudget {
  std::int64_t triplets = 0;  ///< of all layers together
  bool allocate = false;      ///< whether this step chooses anew which ones
};
/// `initial`: triplets at the start, of all layers. `layers`: their number.
RankBudget rank_budget(const AdaLoraConfig& config, std::int64_t initial, std::int64_t layers, std::int64_t step);

/// Moving averages of |p * gradient| and of its deviation from its average, in place. All of one shape, fp32. p is the
/// parameter after the optimiser's update.
void update_importance(const AdaLoraConfig& config, const at::Tensor& p, const at::Tensor& gradient,
                       at::Tensor& sensitivity, at::Tensor& uncertainty);

/// Score [r] of each triplet: E's own plus the means of A's row and B's column. Arguments: sensitivity * uncertainty of
/// the three.
at::Tensor triplet_scores(const at::Tensor& a, const at::Tensor& e, const at::Tensor& b);

/// The triplets to keep, layer by layer, so that at most `budget` of all are left: a tie at the threshold goes out.
std::vector<std::vector<bool>> allocate_triplets(const std::vector<at::Tensor>& scores, std::int64_t budget);

/// || A A^T - I ||, a scalar with the graph of A. B goes in transposed. 0 for r = 0.
at::Tensor orthogonality(const at::Tensor& rows);
/// Its gradient with respect to `rows`, without a graph.
at::Tensor orthogonality_gradient(const at::Tensor& rows);

}  // namespace tessera::adapt
