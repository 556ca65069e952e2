// main() of the fuzz targets. Each target defines LLVMFuzzerTestOneInput, so it can be linked with libFuzzer instead;
// this driver needs no special compiler. It runs every file of the corpus, then mutations of them, all defined by the
// seed.
//   TARGET CORPUS… [--runs N] [--seconds S] [--seed N] [--keep FILE] [--words FILE]
// An input that crashes the target, is reported by a sanitizer or takes more than 30 seconds is left in FILE.
// --words names a text file with one word a line, which mutations insert; \xNN in it stands for a byte.
// One allocation beyond a fixed allowance plus a multiple of the input ends the run: a length that lies must be seen
// before memory of its size is asked for.
#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "tessera/core/clock.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/random.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
// Of the sanitizers' run time, where it is linked in: they end the program without a signal.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

constexpr std::size_t kAllowance = std::size_t{4} << 20;
constexpr std::size_t kPerByte = 256;
std::size_t most_bytes = SIZE_MAX;  // of one allocation, while a target runs

void* allocate_or_null(std::size_t bytes) noexcept {
  if (bytes > most_bytes) {
    std::fprintf(stderr, "an allocation of %zu bytes\n", bytes);
    std::abort();
  }
  return std::malloc(bytes == 0 ? 1 : bytes);
}

void* allocate(std::size_t bytes) {
  if (void* memory = allocate_or_null(bytes)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) {
  return allocate(bytes);
}
void* operator new[](std::size_t bytes) {
  return allocate(bytes);
}
// The standard library's sorts use these, which a sanitizer has of its own where they are not here.
void* operator new(std::size_t bytes, const std::nothrow_t& /*tag*/) noexcept {
  return allocate_or_null(bytes);
}
void* operator new[](std::size_t bytes, const std::nothrow_t& /*tag*/) noexcept {
  return allocate_or_null(bytes);
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

constexpr unsigned kMostSeconds = 30;  // for one input
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
  std::vector<std::string> words;
};

// Seen by the handlers below: the input that runs, and where to leave it.
const std::string* running = nullptr;
const char* keep_path = nullptr;

/// Only calls that a signal handler may make.
void keep_running_input() {
  if (running == nullptr || keep_path == nullptr) return;
  const int file = open(keep_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return;
  if (write(file, running->data(), running->size()) < 0) _exit(3);
  close(file);
}

void on_signal(int number) {
  constexpr char kSlow[] = "one input takes too long\n";
  if (number == SIGALRM && write(STDERR_FILENO, kSlow, sizeof kSlow - 1) < 0) _exit(3);
  keep_running_input();
  _exit(1);
}

void set_handlers(const Settings& settings) {
  if (!settings.keep.empty()) keep_path = settings.keep.c_str();
  std::signal(SIGALRM, on_signal);
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(keep_running_input);
    return;  // the sanitizer has handlers of its own for the rest
  }
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(number, on_signal);
}

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

void insert_word(std::string& text, const std::vector<std::string>& words, RandomSequence& random) {
  if (words.empty() || text.size() > kMostInput) return;
  text.insert(random.below(text.size() + 1), words[random.below(words.size())]);
}

std::string mutate(const std::vector<std::string>& corpus, const std::vector<std::string>& words,
                   RandomSequence& random) {
  std::string text = corpus[random.below(corpus.size())];
  const std::uint64_t steps = 1 + random.below(6);
  for (std::uint64_t i = 0; i < steps; ++i) {
    switch (random.below(words.empty() ? 6 : 7)) {
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
      case 5:
        insert_from(text, corpus[random.below(corpus.size())], random);
        break;
      default:
        insert_word(text, words, random);
        break;
    }
  }
  return text;
}

void run_one(const std::string& input) {
  running = &input;
  alarm(kMostSeconds);
  most_bytes = kAllowance + kPerByte * input.size();
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
  most_bytes = SIZE_MAX;
  alarm(0);
  running = nullptr;
}

std::vector<std::string> read_words(const std::string& path) {
  std::vector<std::string> words;
  std::string word;
  const std::string text = tessera::read_file(path);
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, 2, "\\x") == 0 && i + 4 <= text.size()) {
      word += static_cast<char>(std::stoi(text.substr(i + 2, 2), nullptr, 16));
      i += 3;
    } else if (text[i] != '\n') {
      word += text[i];
    } else if (!word.empty()) {
      words.push_back(std::exchange(word, {}));
    }
  }
  return words;
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
    } else if (arg == "--words" && has_value) {
      settings.words = read_words(argv[++i]);
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
  set_handlers(settings);
  for (const auto& input : corpus) run_one(input);
  const tessera::Stopwatch watch;
  RandomSequence random(settings.seed);
  std::int64_t runs = 0;
  while (runs < settings.runs || watch.seconds() < settings.seconds) {
    run_one(mutate(corpus, settings.words, random));
    ++runs;
  }
  std::printf("%zu files and %lld mutations in %.1f s\n", corpus.size(), static_cast<long long>(runs), watch.seconds());
  return 0;
}
