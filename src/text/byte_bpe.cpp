#include "text/byte_bpe.hpp"

#include <algorithm>
#include <limits>
#include <queue>

#include "tessera/core/error.hpp"
#include "text/unicode.hpp"

namespace tessera::text {
namespace {

/// Printable Latin-1 stands for itself; the other bytes, in order, for the characters from U+0100 on.
struct ByteNames {
  std::array<char32_t, 256> shown{};
  std::array<std::int16_t, 512> byte{};  ///< by character; −1: stands for none

  constexpr ByteNames() {
    byte.fill(-1);
    char32_t next = 256;
    for (std::size_t b = 0; b < 256; ++b) {
      const bool printable = (b > 32 && b < 127) || (b > 160 && b != 173);
      shown[b] = printable ? static_cast<char32_t>(b) : next++;
      byte[shown[b]] = static_cast<std::int16_t>(b);
    }
  }
};
constexpr ByteNames kBytes;

constexpr std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

std::string show_bytes(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) append_utf8(out, kBytes.shown[static_cast<unsigned char>(c)]);
  return out;
}

std::string hide_bytes(std::string_view visible) {
  std::string out;
  for (std::size_t at = 0; at < visible.size();) {
    const char32_t code = next_code_point(visible, at);
    if (code >= kBytes.byte.size() || kBytes.byte[code] < 0) return std::string(visible);
    out += static_cast<char>(kBytes.byte[code]);
  }
  return out;
}

ByteBpe::ByteBpe(const std::vector<std::pair<std::string, std::int64_t>>& vocabulary, const std::vector<Merge>& merges,
                 BpeSettings settings, const std::string& where)
    : settings_(std::move(settings)) {
  // A gap or two is usual; a single absurd id must not make a table of its size.
  const auto limit = static_cast<std::int64_t>(2 * vocabulary.size() + 65536);
  for (const auto& [piece, id] : vocabulary) {
    if (id < 0 || id >= limit) {
      throw RequestError("text: {}: the piece '{}' has id {} in a vocabulary of {}", where, piece, id,
                         vocabulary.size());
    }
    if (static_cast<std::size_t>(id) >= pieces_.size()) pieces_.resize(static_cast<std::size_t>(id) + 1);
    std::string& slot = pieces_[static_cast<std::size_t>(id)];
    if (!slot.empty() || piece.empty()) {
      throw RequestError("text: {}: the pieces '{}' and '{}' share the id {}, or one is empty", where, slot, piece, id);
    }
    slot = piece;
    ids_.emplace(piece, static_cast<std::int32_t>(id));
  }
  if (pieces_.empty()) throw RequestError("text: {}: the vocabulary is empty", where);
  const auto require = [&](const std::string& piece, const Merge& merge) {
    const auto it = ids_.find(piece);
    if (it == ids_.end()) {
      throw RequestError("text: {}: the merge '{} {}' needs the piece '{}', which the vocabulary lacks", where,
                         merge.first, merge.second, piece);
    }
    return it->second;
  };
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    const std::uint64_t key = pair_key(require(merge.first, merge), require(merge.second, merge));
    merges_[key] = {static_cast<std::int32_t>(rank), require(merge.first + merge.second, merge)};
  }
  for (std::size_t b = 0; b < 256; ++b) {
    const auto it = ids_.find(show_bytes(std::string(1, static_cast<char>(b))));
    byte_ids_[b] = it == ids_.end() ? -1 : it->second;
  }
  if (!settings_.unk_token.empty()) {
    const auto it = ids_.find(settings_.unk_token);
    if (it == ids_.end()) throw RequestError("text: {}: no piece '{}' for unknown bytes", where, settings_.unk_token);
    unk_id_ = it->second;
  }
}

const ByteBpe::Target* ByteBpe::find_merge(std::int32_t left, std::int32_t right) const {
  const auto it = merges_.find(pair_key(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

/// Looks for the lowest rank again after every merge: the fastest way for the usual few symbols.
void ByteBpe::merge_short(std::vector<std::int32_t>& symbols) const {
  constexpr std::int32_t kNone = std::numeric_limits<std::int32_t>::max();
  std::vector<Target> pairs(symbols.size(), {kNone, -1});
  const auto refresh = [&](std::size_t i) {
    const Target* target = i + 1 < symbols.size() ? find_merge(symbols[i], symbols[i + 1]) : nullptr;
    pairs[i] = target != nullptr ? *target : Target{kNone, -1};
  };
  for (std::size_t i = 0; i < symbols.size(); ++i) refresh(i);
  while (symbols.size() > 1) {
    const auto best =
        std::min_element(pairs.begin(), pairs.end(), [](const Target& a, const Target& b) { return a.rank < b.rank; });
    if (best->rank == kNone) return;
    const auto at = best - pairs.begin();
    symbols[static_cast<std::size_t>(at)] = best->id;
    symbols.erase(symbols.begin() + at + 1);
    pairs.erase(pairs.begin() + at + 1);
    refresh(static_cast<std::size_t>(at));
    if (at > 0) refresh(static_cast<std::size_t>(at) - 1);
  }
}

/// The same result through a queue and a linked list, so that a word of a million letters takes no hour.
void ByteBpe::merge_long(std::vector<std::int32_t>& symbols) const {
  struct Node {
    std::int32_t id;
    std::int64_t before, after;
  };
  struct Candidate {
    std::int32_t rank;
    std::int64_t at;
    std::int32_t left, right, merged;
    bool operator<(const Candidate& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }
  };
  const auto size = static_cast<std::int64_t>(symbols.size());
  std::vector<Node> nodes;
  for (std::int64_t i = 0; i < size; ++i) {
    nodes.push_back({symbols[static_cast<std::size_t>(i)], i - 1, i + 1 < size ? i + 1 : -1});
  }
  const auto node = [&](std::int64_t i) -> Node& { return nodes[static_cast<std::size_t>(i)]; };
  std::priority_queue<Candidate> queue;
  const auto offer = [&](std::int64_t i) {
    if (i < 0 || node(i).after < 0) return;
    const std::int32_t right = node(node(i).after).id;
    if (const Target* target = find_merge(node(i).id, right)) {
      queue.push({target->rank, i, node(i).id, right, target->id});
    }
  };
  for (std::int64_t i = 0; i < size; ++i) offer(i);
  constexpr std::int32_t kGone = -2;
  while (!queue.empty()) {
    const Candidate c = queue.top();
    queue.pop();
    if (node(c.at).id != c.left || node(c.at).after < 0 || node(node(c.at).after).id != c.right) continue;
    const std::int64_t gone = node(c.at).after;
    node(c.at).id = c.merged;
    node(c.at).after = node(gone).after;
    if (node(gone).after >= 0) node(node(gone).after).before = c.at;
    node(gone).id = kGone;
    offer(node(c.at).before);
    offer(c.at);
  }
  symbols.clear();
  for (std::int64_t i = 0; i >= 0; i = node(i).after) symbols.push_back(node(i).id);
}

void ByteBpe::encode_word(std::string_view word, std::vector<std::int64_t>& ids,
                          std::vector<std::string>& pieces) const {
  std::vector<std::int32_t> symbols;
  symbols.reserve(word.size());
  for (const char c : word) {
    const std::int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id >= 0) {
      symbols.push_back(id);
    } else if (unk_id_ && !(settings_.fuse_unk && !symbols.empty() && symbols.back() == *unk_id_)) {
      symbols.push_back(*unk_id_);
    }
  }
  if (symbols.empty()) return;
  constexpr std::size_t kShort = 128;
  if (symbols.size() <= kShort) {
    merge_short(symbols);
  } else {
    merge_long(symbols);
  }
  for (const std::int32_t id : symbols) {
    ids.push_back(id);
    pieces.push_back(pieces_[static_cast<std::size_t>(id)]);
  }
}

void ByteBpe::encode(std::string_view segment, std::vector<std::int64_t>& ids, std::vector<std::string>& pieces) const {
  std::string with_space;
  if (settings_.add_prefix_space && !segment.starts_with(' ')) {
    with_space = " " + std::string(segment);
    segment = with_space;
  }
  std::vector<std::string_view> words = {segment};
  for (const Cut& cut : settings_.cuts) {
    std::vector<std::string_view> finer;
    for (const std::string_view word : words) {
      std::size_t rest = 0;
      cut.regex.for_each(word, [&](std::size_t begin, std::size_t end) {
        if (begin > rest && cut.keep_rest) finer.push_back(word.substr(rest, begin - rest));
        if (cut.keep_matches) finer.push_back(word.substr(begin, end - begin));
        rest = end;
      });
      if (rest < word.size() && cut.keep_rest) finer.push_back(word.substr(rest));
    }
    words = std::move(finer);
  }
  for (const std::string_view word : words) encode_word(word, ids, pieces);
}

std::optional<std::int64_t> ByteBpe::id_of(std::string_view piece) const {
  const auto it = ids_.find(piece);
  return it == ids_.end() ? std::nullopt : std::optional<std::int64_t>(it->second);
}

std::string ByteBpe::piece_of(std::int64_t id) const {
  const std::string& piece = pieces_[static_cast<std::size_t>(id)];
  if (piece.empty()) throw RequestError("text: the vocabulary has no piece with id {}", id);
  return piece;
}

std::string ByteBpe::join(const std::vector<std::string>& pieces) const {
  std::string bytes;
  for (const std::string& piece : pieces) bytes += hide_bytes(piece);
  return decode_lossy(bytes);
}

}  // namespace tessera::text
