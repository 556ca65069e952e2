// The baseline that ignores the question: the mean of the training masks, cut at the threshold that scores best on
// them.
#include <array>
#include <vector>

#include "tessera/comm/agree.hpp"
#include "tessera/core/error.hpp"
#include "tessera/image/rle.hpp"
#include "tessera/train/eval_run.hpp"

namespace tessera::train {

namespace {

constexpr std::int64_t kGrid = 64;  // masks of any size meet on this grid
constexpr std::size_t kCells = kGrid * kGrid;
using Grid = std::array<float, kCells>;

// Nearest pixel of each cell's centre.
Grid on_grid(const image::Mask& mask) {
  Grid out{};
  for (std::int64_t y = 0; y < kGrid; ++y) {
    for (std::int64_t x = 0; x < kGrid; ++x) {
      const auto sy = (2 * y + 1) * mask.height / (2 * kGrid);
      const auto sx = (2 * x + 1) * mask.width / (2 * kGrid);
      out[static_cast<std::size_t>(y * kGrid + x)] = mask.row(sy)[sx] == 1 ? 1.0F : 0.0F;
    }
  }
  return out;
}

std::vector<Grid> training_masks(const data::Shards& train, int rank, int world) {
  std::vector<Grid> out;
  const auto rows = train.evaluation_rows();
  for (std::size_t i = static_cast<std::size_t>(rank); i < rows.size(); i += static_cast<std::size_t>(world)) {
    for (const auto& target : train.read(rows[i]).targets) out.push_back(on_grid(image::rle_decode(target)));
  }
  return out;
}

// Logits of the answer: positive where the mean passes the threshold.
Grid answer_at(const Grid& mean, float threshold) {
  Grid out{};
  for (std::size_t i = 0; i < kCells; ++i) out[i] = mean[i] > threshold ? 1.0F : -1.0F;
  return out;
}

Grid best_answer(const std::vector<Grid>& masks, comm::Communicator& control) {
  std::array<double, kCells + 1> sums{};
  for (const auto& m : masks) {
    for (std::size_t i = 0; i < kCells; ++i) sums[i] += m[i];
  }
  sums[kCells] = static_cast<double>(masks.size());
  control.all_reduce({sums.data(), static_cast<std::int64_t>(sums.size()), comm::DType::f64});
  if (sums[kCells] == 0) throw RequestError("--baseline_shards hold no mask");
  Grid mean{};
  for (std::size_t i = 0; i < kCells; ++i) mean[i] = static_cast<float>(sums[i] / sums[kCells]);
  Grid best{};
  double best_giou = -1;
  for (int percent = 2; percent <= 98; percent += 4) {
    const Grid answer = answer_at(mean, static_cast<float>(percent) / 100.0F);
    IouSum score;
    for (const auto& m : masks) score.add(answer, m);
    score.all_reduce(control);
    if (score.giou() > best_giou) {
      best_giou = score.giou();
      best = answer;
    }
  }
  return best;
}

}  // namespace

IouSum mean_mask_baseline(const data::Shards& train, const data::Shards& split, comm::Communicator& control) {
  std::vector<Grid> masks;
  comm::on_every_rank(control, [&] { masks = training_masks(train, control.rank(), control.size()); });
  const Grid answer = best_answer(masks, control);
  IouSum score;
  comm::on_every_rank(control, [&] {
    const auto rows = split.evaluation_rows();
    for (auto i = static_cast<std::size_t>(control.rank()); i < rows.size();
         i += static_cast<std::size_t>(control.size())) {
      const auto sample = split.read(rows[i]);
      for (const auto& rle : sample.targets) {
        const auto mask = image::rle_decode(rle);
        std::vector<float> logits(mask.data.size());
        std::vector<float> target(mask.data.begin(), mask.data.end());
        for (std::int64_t y = 0; y < mask.height; ++y) {
          for (std::int64_t x = 0; x < mask.width; ++x) {
            logits[static_cast<std::size_t>(y * mask.width + x)] =
                answer[static_cast<std::size_t>(y * kGrid / mask.height * kGrid + x * kGrid / mask.width)];
          }
        }
        if (sample.ignore) {
          const auto ignore = image::rle_decode(*sample.ignore);
          for (std::size_t k = 0; k < target.size(); ++k) target[k] = ignore.data[k] != 0 ? 255.0F : target[k];
        }
        score.add(logits, target);
      }
    }
  });
  score.all_reduce(control);
  return score;
}

}  // namespace tessera::train
