#include "tessera/io/pickle.hpp"

#include <gtest/gtest.h>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"

namespace tessera::io {
namespace {

using testing_support::message_of;

const std::filesystem::path kData = std::filesystem::path(TESSERA_SOURCE_DIR) / "tests/golden/io/data";

PickleValue parse(const std::string& text, PickleLimits limits = {}) {
  return parse_pickle(std::as_bytes(std::span(text)), "x.p", limits);
}

std::string complaint(const std::string& text, PickleLimits limits = {}) {
  return message_of<RequestError>([&] { parse(text, limits); });
}

::testing::AssertionResult says(const std::string& message, const std::string& part) {
  if (message.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "\"" << message << "\" lacks \"" << part << "\"";
}

TEST(Pickle, ReadsWhatPythonWroteInEveryProtocol) {
  for (int protocol = 0; protocol <= 5; ++protocol) {
    SCOPED_TRACE(protocol);
    const auto refs = read_pickle(kData / fmt::format("refs.{}.p", protocol));
    ASSERT_EQ(refs.kind(), PickleKind::list);
    ASSERT_EQ(refs.size(), protocol < 3 ? 1U : 2U);
    const auto ref = refs.at(std::size_t{0});
    EXPECT_EQ(ref.integer("ref_id"), 0);
    EXPECT_EQ(ref.integer("ann_id"), 900100000012);
    EXPECT_EQ(ref.text("file_name"), "COCO_train2014_000000000009_0.jpg");
    EXPECT_EQ(ref.integer("neg"), -70000);
    EXPECT_EQ(ref.at("score").real(), -1.5e-7);
    EXPECT_EQ(ref.at("sent_ids").at(std::size_t{0}).integer(), 5);
    const auto sentence = ref.at("sentences").at(std::size_t{0});
    EXPECT_EQ(sentence.text("raw"), "The größte dog!");
    EXPECT_EQ(sentence.at("tokens").at(1).text(), "größte");
    const auto flags = ref.at("flags");
    EXPECT_EQ(flags.kind(), PickleKind::tuple);
    EXPECT_TRUE(flags.at(std::size_t{0}).boolean());
    EXPECT_FALSE(flags.at(1).boolean());
    EXPECT_EQ(flags.at(2).kind(), PickleKind::none);
    if (protocol < 3) continue;
    EXPECT_EQ(refs.at(1).integer("ann_id"), -1);
    EXPECT_EQ(refs.at(1).at("raw").kind(), PickleKind::bytes);
    EXPECT_TRUE(says(message_of<RequestError>([&] { refs.at(1).integer("big"); }),
                     "[1]['big']: an integer beyond 64 bits where an int is expected"));
  }
}

TEST(Pickle, ReadsThePicklesOfPython2) {
  const auto text = parse("(dp0\nS'it\\'s \\\\ \\x41\\n\"'\np1\nS\"b\"\np2\nsS'n'\nI-3\nsS'f'\nF2.5\nsS't'\nI01\ns.");
  EXPECT_EQ(text.text("it's \\ A\n\""), "b");
  EXPECT_EQ(text.integer("n"), -3);
  EXPECT_EQ(text.at("f").real(), 2.5);
  EXPECT_TRUE(text.at("t").boolean());
  const auto binary =
      parse(std::string("\x80\x02}q\x00U\x01k]q\x01(K\x01M\x00\x02J\xff\xff\xff\xff"
                        "es.",
                        25));
  EXPECT_EQ(binary.at("k").at(1).integer(), 512);
  EXPECT_EQ(binary.at("k").at(2).integer(), -1);
  const auto windows = parse("(dp0\r\nS'a'\r\nI5\r\ns.");
  EXPECT_EQ(windows.integer("a"), 5);
}

TEST(Pickle, ReadsOrderedDictsOfBothPythons) {
  const auto three = parse("ccollections\nOrderedDict\n)R(X\x01" + std::string(3, '\0') + "aK\x07u.");
  EXPECT_EQ(three.integer("a"), 7);
  const auto two = parse("ccollections\nOrderedDict\n((lp0\n(S'a'\nI1\nla(S'b'\nI2\nlatR.");
  EXPECT_EQ(two.integer("a"), 1);
  EXPECT_EQ(two.integer("b"), 2);
  EXPECT_EQ(two.key_at(1).text(), "b");
  EXPECT_EQ(two.value_at(1).integer(), 2);
}

TEST(Pickle, LetsTheLastOfTwoEqualKeysWin) {
  EXPECT_EQ(parse("(dS'a'\nI1\nsS'a'\nI2\ns.").integer("a"), 2);
}

TEST(Pickle, NamesTheFunctionAHostileFileCalls) {
  EXPECT_TRUE(says(complaint("cos\nsystem\n(S'echo pwned'\ntR."), "the pickle names 'os.system', which is refused"));
  EXPECT_TRUE(says(complaint("\x80\x04\x8c\x08"
                             "builtins\x8c\x04"
                             "eval\x93."),
                   "'builtins.eval', which is refused"));
  EXPECT_TRUE(says(complaint("(ios\nsystem\n."), "'os.system', which is refused"));
  EXPECT_TRUE(says(complaint("ccollections\nOrderedDict\n(I1\nI2\ntR."), "OrderedDict with unexpected arguments"));
  EXPECT_TRUE(says(complaint("ccollections\nOrderedDict\nI1\nR."), "not a known name"));
  EXPECT_TRUE(says(complaint("I1\n)R."), "not a known name"));
  EXPECT_TRUE(says(complaint("]}b."), "attributes for a value that has none"));
  EXPECT_TRUE(says(complaint("I1\nQ."), "a persistent id that is not a storage"));
  EXPECT_TRUE(says(complaint("Pid\n."), "opcode 0x50 is not supported"));
}

TEST(Pickle, RefusesValuesThatContainThemselves) {
  EXPECT_TRUE(says(complaint("]q" + std::string(1, '\0') + "h" + std::string(1, '\0') + "a."), "contains itself"));
  EXPECT_TRUE(says(complaint("(dp0\nS'a'\ng0\ns."), "contains itself"));
  EXPECT_TRUE(says(complaint("]p0\n(g0\ntp1\na."), "contains itself"));
}

TEST(Pickle, RefusesDeepNestingWithoutUsingTheStack) {
  EXPECT_TRUE(says(complaint(std::string(1'000'000, ']') + std::string(999'999, 'a') + "."), "nested too deep"));
  EXPECT_TRUE(says(complaint("I1\n" + std::string(1'000'000, '\x85') + "."), "nested too deep"));
  EXPECT_NO_THROW(parse(std::string(63, ']') + std::string(62, 'a') + "."));
}

TEST(Pickle, RefusesSharingThatMultiplies) {
  // Each list holds the one before ten times: 60 levels would be met 10^60 times.
  std::string text = "]p0\n";
  for (int level = 1; level < 60; ++level) {
    text += "](";
    for (int i = 0; i < 10; ++i) text += fmt::format("g{}\n", level - 1);
    text += fmt::format("ep{}\n", level);
  }
  EXPECT_TRUE(says(complaint(text + "."), "shared so often"));
}

TEST(Pickle, RefusesMoreValuesOrBytesThanAllowed) {
  EXPECT_TRUE(says(complaint("(" + std::string(1000, 'N') + "l.", {.max_values = 1000}), "too many values"));
  EXPECT_NO_THROW(parse("(" + std::string(999, 'N') + "l.", {.max_values = 1000}));
  EXPECT_TRUE(says(complaint("N.", {.max_bytes = 1}), "the limit is 1"));
  std::string copies = "](" + std::string(500, 'N') + "ep0\n0";
  for (int i = 0; i < 10; ++i) copies += "ccollections\nOrderedDict\n(g0\ntR0";
  EXPECT_TRUE(says(complaint("(" + copies + "l.", {.max_values = 1000}), ""));
}

TEST(Pickle, RefusesLengthsThatLieAndStreamsThatEnd) {
  EXPECT_TRUE(says(complaint(""), "it ends early"));
  EXPECT_TRUE(says(complaint("N"), "it ends early"));
  EXPECT_TRUE(says(complaint("X\xff\xff\xff\xff"
                             "a."),
                   "it ends early"));
  EXPECT_TRUE(says(complaint("\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
                             "a."),
                   "it ends early"));
  EXPECT_TRUE(says(complaint("\x8b\xff\xff\xff\xff"
                             "a."),
                   "it ends early"));
  EXPECT_TRUE(says(complaint("I12"), "a line without an end"));
  EXPECT_TRUE(says(complaint("I1x\n."), "a malformed number"));
  EXPECT_TRUE(says(complaint("Fone\n."), "a malformed number"));
  EXPECT_TRUE(says(complaint("S'a\n."), "a malformed text"));
  EXPECT_TRUE(says(complaint("S'\\x4'\n."), "a malformed text"));
  EXPECT_TRUE(says(complaint("V\\u12\n."), "a malformed text"));
  EXPECT_TRUE(says(complaint("V\\Uffffffff\n."), "a malformed text"));
  EXPECT_TRUE(says(complaint("\x80\x06."), "a protocol above 5"));
}

TEST(Pickle, RefusesOperationsWithoutOperands) {
  for (const char* text : {".", "0.", "2.", "a.", "s.", "u.", "e.", "t.", "l.", "d.", "R.", "b.", "Q.", "q0.", "\x85.",
                           "\x93.", "(.", "((0.", "1."}) {
    EXPECT_NE(complaint(text), "(nothing was thrown)") << text;
  }
  EXPECT_TRUE(says(complaint("N(N(a."), "nothing is on the stack"));
  EXPECT_TRUE(says(complaint("NNa."), "not a list"));
  EXPECT_TRUE(says(complaint("NNNs."), "not a dict"));
  EXPECT_TRUE(says(complaint("(Nd."), "a key without a value"));
  EXPECT_TRUE(says(complaint("g5\n."), "the memo has no entry 5"));
}

TEST(Pickle, NamesThePlaceOfAWrongType) {
  const auto value = parse("(dS'a'\n(lI1\nas.");
  EXPECT_EQ(message_of<RequestError>([&] { value.at("a").at(std::size_t{0}).text(); }),
            "'x.p'['a'][0]: an int where a str is expected");
  EXPECT_EQ(message_of<RequestError>([&] { value.at("b"); }), "'x.p': the key 'b' is missing");
  EXPECT_EQ(message_of<RequestError>([&] { value.at("a").at(1); }), "'x.p'['a']: element 1 of 1");
  EXPECT_EQ(message_of<RequestError>([&] { value.at(std::size_t{0}); }), "'x.p': a dict where a list is expected");
}

}  // namespace
}  // namespace tessera::io
