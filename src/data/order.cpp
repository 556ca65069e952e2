#include "tessera/data/order.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"
#include "tessera/core/split.hpp"

namespace tessera::data {
namespace {

std::string_view trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

/// Splits at "||" where there is one, else at commas.
std::vector<std::string_view> split_list(std::string_view text) {
  auto parts = split(text, text.find("||") != std::string_view::npos ? "||" : ",");
  for (auto& part : parts) part = trim(part);
  return parts;
}

/// One number of the stream has its own sequence, so that a family with other sources does not shift later numbers.
RandomSequence draws_of(std::uint64_t key, std::int64_t g) {
  return RandomSequence(mix_keys(key, g));
}

}  // namespace

std::vector<double> parse_rates(std::string_view text) {
  std::vector<double> rates;
  for (const auto part : split_list(text)) {
    double value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size() || !std::isfinite(value) || value < 0) {
      throw RequestError("--sample_rates '{}': '{}' is not a rate; give one number >= 0 per family, as 9,3,3,1", text,
                         part);
    }
    rates.push_back(value);
  }
  if (std::accumulate(rates.begin(), rates.end(), 0.0) <= 0) {
    throw RequestError("--sample_rates '{}': all rates are 0; one at least must be positive", text);
  }
  return rates;
}

std::vector<std::string> parse_names(std::string_view flag, std::string_view text) {
  std::vector<std::string> families;
  for (const auto part : split_list(text)) {
    if (part.empty()) throw RequestError("{} '{}': a name is empty", flag, text);
    if (std::find(families.begin(), families.end(), part) != families.end()) {
      throw RequestError("{} '{}': '{}' is named twice", flag, text, part);
    }
    families.emplace_back(part);
  }
  return families;
}

MixtureOrder::MixtureOrder(const std::vector<SourcePopulation>& sources, const std::vector<std::string>& families,
                           const std::vector<double>& rates, std::uint64_t seed)
    : key_(mix_keys(seed, hash_name("sample order"))) {
  if (families.size() != rates.size()) {
    throw RequestError("--sample_rates has {} numbers for {} families; give one per family", rates.size(),
                       families.size());
  }
  const double sum = std::accumulate(rates.begin(), rates.end(), 0.0);
  double until = 0;
  for (std::size_t i = 0; i < families.size(); ++i) {
    Family family;
    for (const auto& source : sources) {
      if (source.family == families[i] && !source.items.empty()) family.sources.push_back(source.items);
    }
    if (family.sources.empty() && rates[i] > 0) {
      throw RequestError("the shards hold no sample of family '{}'; prepare it, or leave it out of --dataset",
                         families[i]);
    }
    until += rates[i] / sum;
    family.until = until;
    families_.push_back(std::move(family));
  }
  // Rounding may leave the last bound below 1; the last family that can be drawn takes the rest.
  for (std::size_t i = families.size(); i-- > 0;) {
    families_[i].until = 1.0;
    if (rates[i] > 0) break;
  }
}

std::size_t MixtureOrder::family_at(std::int64_t g) const {
  const double u = draws_of(key_, g).uniform();
  std::size_t i = 0;
  while (u >= families_[i].until) ++i;
  return i;
}

std::int64_t MixtureOrder::at(std::int64_t g) const {
  auto draws = draws_of(key_, g);
  const double u = draws.uniform();
  std::size_t i = 0;
  while (u >= families_[i].until) ++i;
  const auto& sources = families_[i].sources;
  const auto& items = sources[draws.below(sources.size())];
  const ItemRows& item = items[draws.below(items.size())];
  return item.first + static_cast<std::int64_t>(draws.below(static_cast<std::uint64_t>(item.draws)));
}

}  // namespace tessera::data
