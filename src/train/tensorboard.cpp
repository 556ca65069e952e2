#include "tessera/train/tensorboard.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>

#include "tessera/core/error.hpp"

namespace tessera::train {

namespace {

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int k = 0; k < 8; ++k) c = (c & 1U) != 0 ? 0x82f63b78U ^ (c >> 1) : c >> 1;
    table[i] = c;
  }
  return table;
}
constexpr auto kCrcTable = make_crc_table();

std::uint32_t masked(std::uint32_t crc) {
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

template <class T>
void put_raw(std::string& out, T value) {  // little-endian, as every machine we build for is
  std::array<char, sizeof(T)> bytes{};
  std::memcpy(bytes.data(), &value, sizeof(T));
  out.append(bytes.data(), bytes.size());
}

void put_varint(std::string& out, std::uint64_t v) {
  while (v >= 0x80) {
    out.push_back(static_cast<char>(v | 0x80));
    v >>= 7;
  }
  out.push_back(static_cast<char>(v));
}

constexpr char key(int field, int wire) {
  return static_cast<char>(field << 3 | wire);
}

void put_bytes(std::string& out, int field, std::string_view bytes) {
  out.push_back(key(field, 2));
  put_varint(out, bytes.size());
  out += bytes;
}

double now_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string event_head(std::int64_t step) {
  std::string event;
  event.push_back(key(1, 1));
  put_raw(event, now_s());
  event.push_back(key(2, 0));
  put_varint(event, static_cast<std::uint64_t>(step));
  return event;
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) noexcept {
  std::uint32_t crc = 0xffffffffU;
  for (const char c : bytes) crc = kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xffU] ^ (crc >> 8);
  return crc ^ 0xffffffffU;
}

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& dir, std::int64_t done) {
  std::filesystem::create_directories(dir);
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  path_ = dir / fmt::format("events.out.tfevents.{}.{}.{}", static_cast<std::int64_t>(now_s()), host.data(), getpid());
  file_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0) throw RunError("cannot create {}: {}", path_.string(), std::strerror(errno));
  std::string event = event_head(0);
  put_bytes(event, 3, "brain.Event:2");
  append(event);
  const std::string start{key(1, 0), 1};  // status START, from this step on
  event = event_head(done + 1);
  put_bytes(event, 7, start);
  append(event);
}

TensorBoardWriter::~TensorBoardWriter() {
  if (file_ >= 0) close(file_);
}

void TensorBoardWriter::add(std::int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  std::string summary;
  for (const auto& [tag, value] : scalars) {
    std::string item;
    put_bytes(item, 1, tag);
    item.push_back(key(2, 5));
    put_raw(item, static_cast<float>(value));
    put_bytes(summary, 1, item);
  }
  std::string event = event_head(step);
  put_bytes(event, 5, summary);
  append(event);
}

void TensorBoardWriter::append(const std::string& event) {
  std::string record;
  put_raw(record, static_cast<std::uint64_t>(event.size()));
  put_raw(record, masked(crc32c(record)));
  record += event;
  put_raw(record, masked(crc32c(event)));
  const char* at = record.data();
  std::size_t left = record.size();
  while (left > 0) {
    const ssize_t n = write(file_, at, left);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw RunError("cannot write {}: {}", path_.string(), std::strerror(errno));
    at += n;
    left -= static_cast<std::size_t>(n);
  }
}

}  // namespace tessera::train
