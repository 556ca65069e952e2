#pragma once
/// TensorBoardWriter: scalars as an event file that TensorBoard opens.
/// Format: TFRecord framing (u64 length, masked CRC-32C of the length, payload, masked CRC-32C of the payload), each
/// payload one `tensorflow.Event` protobuf: wall_time (1, double), step (2, int64), file_version (3, string) in the
/// first one, session_log (7) with status (1) START (1) in the second, summary (5) holding values with tag (1, string)
/// and simple_value (2, float) in the others. Source: tensorflow/core/util/event.proto,
/// tensorflow/core/framework/summary.proto, TFRecord's documentation.
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tessera::train {

class TensorBoardWriter {
 public:
  /// Creates `dir/events.out.tfevents.<seconds>.<host>.<pid>`. TensorBoard forgets what earlier files of the folder say
  /// of steps beyond `done`: a resumed run makes them again. Throws RunError when it cannot.
  explicit TensorBoardWriter(const std::filesystem::path& dir, std::int64_t done = 0);
  ~TensorBoardWriter();
  TensorBoardWriter(const TensorBoardWriter&) = delete;
  TensorBoardWriter& operator=(const TensorBoardWriter&) = delete;

  /// Appends the scalars of one step and hands them to the operating system.
  void add(std::int64_t step, const std::vector<std::pair<std::string, double>>& scalars);

 private:
  void append(const std::string& event);
  std::filesystem::path path_;
  int file_ = -1;
};

/// CRC-32C (Castagnoli), as TFRecord uses it before masking.
std::uint32_t crc32c(std::string_view bytes) noexcept;

}  // namespace tessera::train
