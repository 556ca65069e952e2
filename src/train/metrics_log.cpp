#include "tessera/train/metrics_log.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"

namespace tessera::train {

using nlohmann::ordered_json;

namespace {

// JSON has no infinities; a reader should still see that the value was not finite.
ordered_json number(double v) {
  if (std::isfinite(v)) return v;
  return std::isnan(v) ? "nan" : v > 0 ? "inf" : "-inf";
}

// A last line without its newline is what a killed run leaves behind; it is dropped.
std::string lines_through(const std::filesystem::path& path, std::int64_t step) {
  if (!std::filesystem::exists(path)) return {};
  const std::string text = read_file(path);
  std::string kept;
  std::size_t begin = 0;
  for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', begin)) {
    const auto line = text.substr(begin, end - begin);
    begin = end + 1;
    const auto object = ordered_json::parse(line, nullptr, false);
    if (object.is_object() && object.value("step", std::int64_t{0}) <= step) kept += line + "\n";
  }
  return kept;
}

}  // namespace

std::string to_json_line(const StepMetrics& m) {
  ordered_json lr = ordered_json::object();
  for (const auto& [name, value] : m.lr) lr[name] = value;
  ordered_json line = {{"step", m.step},
                       {"loss", number(m.loss)},
                       {"ce_loss", number(m.ce_loss)},
                       {"mask_bce_loss", number(m.mask_bce_loss)},
                       {"mask_dice_loss", number(m.mask_dice_loss)},
                       {"mask_loss", number(m.mask_loss)},
                       {"lr", lr},
                       {"grad_norm", number(m.grad_norm)},
                       {"step_s", m.step_s},
                       {"data_wait_s", m.data_wait_s},
                       {"comm_wait_s", m.comm_wait_s},
                       {"save_stall_s", m.save_stall_s},
                       {"tokens", m.tokens},
                       {"padding", m.padding},
                       {"samples", m.samples},
                       {"bytes_gathered", m.bytes_gathered},
                       {"bytes_reduced", m.bytes_reduced},
                       {"peak_bytes", m.peak_bytes}};
  if (m.orth_reg) line["orth_reg"] = number(*m.orth_reg);
  if (m.skipped) line["skipped"] = true;
  if (!m.skip_reason.empty()) line["skip_reason"] = m.skip_reason;
  if (m.loss_scale != 1) line["loss_scale"] = m.loss_scale;
  return line.dump();
}

MetricsLog::MetricsLog(std::filesystem::path path, std::int64_t keep_through) : path_(std::move(path)) {
  write_file(path_, lines_through(path_, keep_through));
  out_.open(path_, std::ios::app | std::ios::binary);
  if (!out_) throw RunError("cannot append to {}", path_.string());
}

void MetricsLog::add(const StepMetrics& metrics) {
  append(to_json_line(metrics));
}

void MetricsLog::add_validation(std::int64_t step, double giou, double ciou, std::int64_t masks) {
  append(ordered_json{{"step", step}, {"val_giou", giou}, {"val_ciou", ciou}, {"val_masks", masks}}.dump());
}

void MetricsLog::add_validation_loss(std::int64_t step, double loss, std::int64_t tokens, std::int64_t samples) {
  append(ordered_json{{"step", step}, {"val_loss", loss}, {"val_tokens", tokens}, {"val_samples", samples}}.dump());
}

void MetricsLog::append(const std::string& line) {
  out_ << line << '\n';
  out_.flush();
  if (!out_) throw RunError("cannot write {}: the disk may be full", path_.string());
}

std::vector<std::pair<double, double>> read_series(const std::filesystem::path& path, const std::string& key) {
  std::vector<std::pair<double, double>> series;
  const std::string text = read_file(path);
  std::size_t begin = 0;
  for (std::int64_t number = 1; begin < text.size(); ++number) {
    const auto end = std::min(text.find('\n', begin), text.size());
    const auto object = ordered_json::parse(text.substr(begin, end - begin), nullptr, false);
    begin = end + 1;
    if (!object.is_object()) throw RequestError("{} line {} is no JSON object", path.string(), number);
    if (object.contains("step") && object.contains(key) && object[key].is_number()) {
      series.emplace_back(object["step"].get<double>(), object[key].get<double>());
    }
  }
  return series;
}

}  // namespace tessera::train
