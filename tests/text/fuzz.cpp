#include "text/fuzz.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/random.hpp"

namespace tessera::testing_support {
namespace {

namespace fs = std::filesystem;

std::string mutate(std::string bytes, const std::vector<std::string>& seeds, const std::vector<std::string>& dictionary,
                   RandomSequence& random) {
  const auto place = [&] { return static_cast<std::size_t>(random.below(bytes.size() + 1)); };
  const std::uint64_t changes = 1 + random.below(8);
  for (std::uint64_t i = 0; i < changes; ++i) {
    const std::size_t at = place();
    switch (random.below(7)) {
      case 0:
        if (at < bytes.size()) bytes[at] = static_cast<char>(random.below(256));
        break;
      case 1:
        if (at < bytes.size()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.below(8)));
        break;
      case 2:
        bytes.erase(at, random.below(16));
        break;
      case 3:
        bytes.insert(at, bytes.substr(place(), random.below(64)));
        break;
      case 4:
        if (!dictionary.empty()) bytes.insert(at, dictionary[random.below(dictionary.size())]);
        break;
      case 5: {
        const std::string& other = seeds[random.below(seeds.size())];
        bytes = bytes.substr(0, at) + other.substr(random.below(other.size() + 1));
        break;
      }
      default:
        if (random.below(4) == 0) bytes.resize(at);
    }
  }
  if (bytes.size() > 1 << 20) bytes.resize(1 << 20);
  return bytes;
}

double seconds_wanted() {
  const char* given = std::getenv("TESSERA_FUZZ_SECONDS");
  return given != nullptr ? std::atof(given) : 0.3;
}

}  // namespace

FuzzResult fuzz(const std::string& name, const std::vector<std::string>& seeds,
                const std::vector<std::string>& dictionary, const std::function<void(const std::string&)>& read) {
  using Clock = std::chrono::steady_clock;
  const fs::path last = fs::temp_directory_path() / ("tessera-fuzz-" + name);
  const auto end = Clock::now() + std::chrono::duration<double>(seconds_wanted());
  FuzzResult result;
  while (Clock::now() < end) {
    RandomSequence random(mix_keys(hash_name(name), static_cast<std::uint64_t>(result.rounds)));
    const std::string bytes = mutate(seeds[random.below(seeds.size())], seeds, dictionary, random);
    write_file(last, bytes);
    ++result.rounds;
    try {
      read(bytes);
      ++result.accepted;
    } catch (const RequestError&) {
      ++result.refused;
    }
  }
  fs::remove(last);
  return result;
}

std::vector<std::string> corpus(const std::string& name) {
  std::vector<fs::path> files;
  const fs::path dir = fs::path(TESSERA_SOURCE_DIR) / "tests/golden/text/corpus" / name;
  for (const auto& entry : fs::directory_iterator(dir)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<std::string> cases;
  for (const fs::path& file : files) cases.push_back(read_file(file));
  return cases;
}

}  // namespace tessera::testing_support
