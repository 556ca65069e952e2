#include "shard/checkpoint_files.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "shard/slice_states.hpp"
#include "tessera/core/direct_file.hpp"
#include "tessera/core/hash.hpp"

namespace tessera::shard {

namespace {

namespace fs = std::filesystem;
using format::Entry;
using format::FileRow;
using format::kBlock;
using format::Table;

constexpr std::size_t kHugePage = std::size_t{2} << 20;

FileRow write_table(const fs::path& folder, const std::string& stem, const Table& table) {
  const std::string text = encode(table);
  write_file(folder / (stem + ".json"), text);  // syncs the folder too, and with it the data file's name
  return {stem, table.file_bytes(), xxh3_64(text.data(), text.size())};
}

}  // namespace

std::vector<PieceRef> pieces_of(std::vector<TrainedSlice>& slices) {
  std::vector<PieceRef> out;
  for (auto& slice : slices) {
    for (std::size_t i = 0; i < slice.pieces.size(); ++i) {
      const auto& param = *slice.layout->tensors()[slice.pieces[i].tensor].param;
      for (auto& part : states_of(slice, i)) {
        const int size = static_cast<int>(part.data.element_size());
        out.push_back({{param.name, part.name, part.begin, part.count, 0, {}, size}, std::move(part.data)});
      }
    }
  }
  // What has one byte an element comes last, so that fp32 stays aligned.
  std::stable_partition(out.begin(), out.end(), [](const PieceRef& piece) { return piece.entry.size == 4; });
  return out;
}

RankFile::RankFile(std::vector<TrainedSlice>& slices) {
  for (auto& piece : pieces_of(slices)) {
    table.entries.push_back(std::move(piece.entry));
    data.push_back(std::move(piece.data));
  }
  header = format::make_header(table.entries);
  table.header_bytes = static_cast<std::int64_t>(header.size());
  table.header_checksum = xxh3_64(header.data(), header.size());
}

void Snapshot::reserve(std::size_t bytes) {
  if (bytes <= capacity_) return;
  memory_ = at::Tensor();  // first, or both exist at once
  const auto room = static_cast<std::int64_t>(bytes + kHugePage);
  memory_ = at::empty({room}, at::TensorOptions().dtype(at::kByte).pinned_memory(pinned_));
  const auto address = reinterpret_cast<std::uintptr_t>(memory_.mutable_data_ptr());
  begin_ = reinterpret_cast<std::byte*>((address + kHugePage - 1) / kHugePage * kHugePage);
  capacity_ = bytes;
  // Fewer page faults while a step waits for the copy; a system without huge pages does as well without.
  if (!pinned_) (void)::madvise(begin_, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
}

void Snapshot::take(const RankFile& file) {
  reserve(static_cast<std::size_t>(file.table.file_bytes()));
  const at::NoGradGuard no_grad;
  std::memcpy(begin_, file.header.data(), file.header.size());
  for (std::size_t i = 0; i < file.data.size(); ++i) {
    const Entry& entry = file.table.entries[i];
    const at::Tensor& from = file.data[i];
    std::byte* to = begin_ + entry.offset;
    if (from.is_cpu()) {
      std::memcpy(to, from.const_data_ptr(), static_cast<std::size_t>(entry.bytes()));
    } else {
      at::from_blob(to, {entry.count}, at::TensorOptions().dtype(from.scalar_type())).copy_(from);
    }
  }
}

FileRow write_rank_files(const fs::path& folder, const std::string& stem, RankFile file, const Snapshot& snapshot,
                         const std::atomic<bool>* cancelled) {
  const auto bytes = file.table.file_bytes();
  DirectFile out(folder / (stem + ".safetensors"), bytes, cancelled);
  for (auto& entry : file.table.entries) {
    for (std::int64_t at = 0; at < entry.count; at += kBlock) {
      const auto count = std::min(kBlock, entry.count - at);
      entry.blocks.push_back(
          xxh3_64(snapshot.data() + entry.offset + at * entry.size, static_cast<std::size_t>(count * entry.size)));
    }
  }
  out.append(snapshot.data(), static_cast<std::size_t>(bytes));
  out.finish();
  return write_table(folder, stem, file.table);
}

FileRow write_rank_files(const fs::path& folder, const std::string& stem, RankFile file) {
  const at::NoGradGuard no_grad;
  DirectFile out(folder / (stem + ".safetensors"), file.table.file_bytes());
  out.append(file.header.data(), file.header.size());
  for (std::size_t i = 0; i < file.data.size(); ++i) {
    Entry& entry = file.table.entries[i];
    for (std::int64_t at = 0; at < entry.count; at += kBlock) {
      const at::Tensor part =
          file.data[i].narrow(0, at, std::min(kBlock, entry.count - at)).to(c10::Device(c10::DeviceType::CPU));
      entry.blocks.push_back(xxh3_64(part.const_data_ptr(), part.nbytes()));
      out.append(part.const_data_ptr(), part.nbytes());
    }
  }
  out.finish();
  return write_table(folder, stem, file.table);
}

}  // namespace tessera::shard
