// main() of the fuzz targets. Each target defines LLVMFuzzerTestOneInput, so it can be linked with libFuzzer instead;
// this driver needs no special compiler. It runs every file of the corpus, then mutations of them, all defined by the
// seed.
//   TARGET CORPUS… [--runs N] [--seconds S] [--seed N] [--keep FILE]
// Input that crashes is left in FILE beforehand, since nothing can be written afterwards.
// One allocation beyond a fixed allowance plus a multiple of the input ends the run: a length that lies must be seen
// before memory of its size is asked for.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>
#include <string>
#include <vector>

#include "tessera/core/clock.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/random.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t kAllowance = std::size_t{4} << 20;
constexpr std::size_t kPerByte = 256;
std::size_t most_bytes = SIZE_MAX;  // of one allocation, while a target runs

void* allocate(std::size_t bytes) {
  if (bytes > most_bytes) {
    std::fprintf(stderr, "an allocation of %zu bytes\n", bytes);
    std::abort();
  }
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) {
  return allocate(bytes);
}
void* operator new[](std::size_t bytes) {
  return allocate(bytes);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace {

using tessera::RandomSequence;

constexpr std::size_t kMostInput = std::size_t{1} << 20;

/// Numbers at which lengths and offsets go wrong.
constexpr std::uint64_t kOddNumbers[] = {0,
                                         1,
                                         2,
                                         0x7f,
                                         0x80,
                                         0xff,
                                         0x7fff,
                                         0xffff,
                                         0x7fffffff,
                                         0x80000000,
                                         0xffffffff,
                                         0x100000000,
                                         0x7fffffffffffffff,
                                         0x8000000000000000,
                                         0xffffffffffffffff};

struct Settings {
  std::vector<std::string> corpus;
  std::int64_t runs = 0;
  double seconds = 0;
  std::uint64_t seed = 1;
  std::string keep;
};

void flip(std::string& text, RandomSequence& random) {
  if (text.empty()) return;
  text[random.below(text.size())] ^= static_cast<char>(1U << random.below(8));
}

void set_number(std::string& text, RandomSequence& random) {
  const std::size_t bytes = std::size_t{1} << random.below(4);
  if (text.size() < bytes) return;
  const std::uint64_t value = kOddNumbers[random.below(std::size(kOddNumbers))] + random.below(3) - 1;
  std::memcpy(text.data() + random.below(text.size() - bytes + 1), &value, bytes);
}

void set_digits(std::string& text, RandomSequence& random) {
  const std::size_t from = text.find_first_of("0123456789", text.empty() ? 0 : random.below(text.size()));
  if (from == std::string::npos) return;
  const std::size_t to = std::min(text.find_first_not_of("0123456789", from), text.size());
  const auto number = std::to_string(kOddNumbers[random.below(std::size(kOddNumbers))]);
  text.replace(from, to - from, random.below(4) == 0 ? "-" + number : number);
}

void cut(std::string& text, RandomSequence& random) {
  if (text.empty()) return;
  const std::size_t at = random.below(text.size());
  text.erase(at,
             random.below(3) == 0 ? std::string::npos : random.below(std::min<std::size_t>(64, text.size() - at) + 1));
}

void insert_from(std::string& text, const std::string& other, RandomSequence& random) {
  if (other.empty() || text.size() > kMostInput) return;
  const std::size_t from = random.below(other.size());
  const std::string piece = other.substr(from, random.below(std::min<std::size_t>(256, other.size() - from)) + 1);
  text.insert(random.below(text.size() + 1), piece);
}

std::string mutate(const std::vector<std::string>& corpus, RandomSequence& random) {
  std::string text = corpus[random.below(corpus.size())];
  const std::uint64_t steps = 1 + random.below(6);
  for (std::uint64_t i = 0; i < steps; ++i) {
    switch (random.below(6)) {
      case 0:
        flip(text, random);
        break;
      case 1:
        set_number(text, random);
        break;
      case 2:
        set_digits(text, random);
        break;
      case 3:
        cut(text, random);
        break;
      case 4:
        insert_from(text, text, random);
        break;
      default:
        insert_from(text, corpus[random.below(corpus.size())], random);
        break;
    }
  }
  return text;
}

void run_one(const std::string& input, const Settings& settings) {
  if (!settings.keep.empty()) std::ofstream(settings.keep, std::ios::binary) << input;
  most_bytes = kAllowance + kPerByte * input.size();
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
  most_bytes = SIZE_MAX;
}

Settings parse(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const bool has_value = i + 1 < argc;
    if (arg == "--runs" && has_value) {
      settings.runs = std::atoll(argv[++i]);
    } else if (arg == "--seconds" && has_value) {
      settings.seconds = std::atof(argv[++i]);
    } else if (arg == "--seed" && has_value) {
      settings.seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (arg == "--keep" && has_value) {
      settings.keep = argv[++i];
    } else {
      settings.corpus.push_back(arg);
    }
  }
  return settings;
}

std::vector<std::string> read_corpus(const Settings& settings) {
  std::vector<std::string> corpus;
  for (const auto& path : settings.corpus) {
    if (!std::filesystem::is_directory(path)) {
      corpus.push_back(tessera::read_file(path));
      continue;
    }
    for (const auto& file : tessera::list_files(path)) corpus.push_back(tessera::read_file(file));
  }
  return corpus;
}

}  // namespace

int main(int argc, char** argv) {
  const Settings settings = parse(argc, argv);
  const std::vector<std::string> corpus = read_corpus(settings);
  if (corpus.empty()) {
    std::fprintf(stderr, "no corpus\n");
    return 2;
  }
  for (const auto& input : corpus) run_one(input, settings);
  const tessera::Stopwatch watch;
  RandomSequence random(settings.seed);
  std::int64_t runs = 0;
  while (runs < settings.runs || watch.seconds() < settings.seconds) {
    run_one(mutate(corpus, random), settings);
    ++runs;
  }
  std::printf("%zu files and %lld mutations in %.1f s\n", corpus.size(), static_cast<long long>(runs), watch.seconds());
  return 0;
}
