#include "tessera/train/run_plots.hpp"

#include <vector>

#include "tessera/core/file.hpp"
#include "tessera/image/plot.hpp"
#include "tessera/image/write.hpp"
#include "tessera/train/metrics_log.hpp"

namespace tessera::train {

namespace {

void plot_keys(const std::filesystem::path& metrics, const std::filesystem::path& picture, const std::string& title,
               const std::vector<std::string>& keys) {
  std::vector<image::PlotSeries> series;
  for (const auto& key : keys) {
    image::PlotSeries one{key, {}, {}};
    for (const auto& [x, y] : read_series(metrics, key)) {
      one.x.push_back(x);
      one.y.push_back(y);
    }
    if (!one.x.empty()) series.push_back(std::move(one));
  }
  if (series.empty()) return;
  write_file(picture, image::encode_png(image::draw_plot(series, {title, "step", "", 960, 540})));
}

}  // namespace

void plot_run(const std::filesystem::path& run_dir) {
  const auto metrics = run_dir / "metrics.jsonl";
  plot_keys(metrics, run_dir / "losses.png", "losses (weighted)",
            {"loss", "ce_loss", "mask_bce_loss", "mask_dice_loss"});
  plot_keys(metrics, run_dir / "validation.png", "validation", {"val_giou", "val_ciou", "val_loss"});
}

}  // namespace tessera::train
