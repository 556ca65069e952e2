/// Tokenizer speed in MB/s, one thread.
///     build/bench_tokenizer FOLDER TEXT_FILE
/// tests/bench/tokenizer.py prints the public packages' figures for the same folder and text.
/// On a busy core of an AMD EPYC, LLaVA's sample conversations (21 KB), medians of three: LLaMA 2.9 MB/s (slow
/// tokenizer of transformers 4.37: 1.0), Qwen2 from vocab.json 11.6 (1.1), GPT-NeoX from tokenizer.json 10.4
/// (tokenizers 0.15: 1.9).
#include <fmt/format.h>

#include <chrono>

#include "tessera/core/file.hpp"
#include "tessera/text/tokenizer.hpp"

int main(int argc, char** argv) {
  if (argc != 3) {
    fmt::print(stderr, "usage: bench_tokenizer FOLDER TEXT_FILE\n");
    return 2;
  }
  using Clock = std::chrono::steady_clock;
  const auto tokenizer = tessera::text::load_tokenizer(argv[1]);
  const std::string all = tessera::read_file(argv[2]);
  std::vector<std::string> lines;  // as training sees text: one conversation at a time
  for (std::size_t begin = 0; begin < all.size();) {
    const std::size_t end = std::min(all.find('\n', begin), all.size());
    if (end > begin) lines.push_back(all.substr(begin, end - begin));
    begin = end + 1;
  }
  std::size_t tokens = 0;
  std::size_t bytes = 0;
  const auto start = Clock::now();
  for (int round = 0; Clock::now() - start < std::chrono::seconds(3); ++round) {
    for (const std::string& line : lines) {
      const std::string text = fmt::format("{} {}", round, line);  // new each time: nothing is to be remembered
      tokens += tokenizer.encode_ids(text).size();
      bytes += text.size();
    }
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  fmt::print("{:.2f} MB/s, {:.2f} M tokens/s\n", static_cast<double>(bytes) / seconds / 1e6,
             static_cast<double>(tokens) / seconds / 1e6);
  return 0;
}
