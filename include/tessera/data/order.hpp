#pragma once
/// MixtureOrder: which sample is number g of the endless training stream. A pure function of (seed, g): the same for
/// any number of ranks, and known at any g without having walked there.
///
/// As in LISA's HybridDataset a family is drawn by its rate, then a source of the family, an item of the source and a
/// draw of the item, each uniformly, with replacement.
/// Source: dvlab-research/LISA utils/dataset.py (HybridDataset), utils/*_dataset.py (`__getitem__`).
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::data {

/// Rows [first, first + draws) of the sample table are the draws of one item.
struct ItemRows {
  std::int64_t first = 0;
  std::int64_t draws = 1;
};

struct SourcePopulation {
  std::string name;
  std::string family;
  std::vector<ItemRows> items;
};

/// "9,3,3,1" or "9||3||3||1". Throws RequestError on anything but non-negative numbers with a positive sum.
std::vector<double> parse_rates(std::string_view text);
/// "sem_seg||refer_seg" (or with commas): the names, blanks trimmed. Throws RequestError, naming `flag`, on an empty or
/// repeated name.
std::vector<std::string> parse_names(std::string_view flag, std::string_view text);
inline std::vector<std::string> parse_families(std::string_view text) {
  return parse_names("--dataset", text);
}

class MixtureOrder {
 public:
  /// families[i] is drawn with probability rates[i] / sum(rates); sources of other families are left out.
  /// Throws RequestError when counts differ, or a family with a positive rate has no items.
  MixtureOrder(const std::vector<SourcePopulation>& sources, const std::vector<std::string>& families,
               const std::vector<double>& rates, std::uint64_t seed);

  /// Row of the sample table for number g of the stream, g >= 0.
  std::int64_t at(std::int64_t g) const;
  /// Index into `families` of number g.
  std::size_t family_at(std::int64_t g) const;

 private:
  struct Family {
    std::vector<std::vector<ItemRows>> sources;
    double until = 0;  ///< cumulated probability
  };
  std::vector<Family> families_;
  std::uint64_t key_;
};

}  // namespace tessera::data
