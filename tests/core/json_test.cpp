#include "tessera/core/json.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/limits.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"

namespace tessera {
namespace {

using testing_support::message_of;

std::string complaint(const std::string& text, const std::function<void(const JsonView&)>& act) {
  return message_of<RequestError>([&] { act(parse_json(text, "c.json")); });
}

TEST(Json, ReadsTypedValuesAndFallbacks) {
  const auto view = parse_json(
      R"({"a": {"n": 3, "x": 1.5, "m": 4.0, "s": "t", "b": true, "z": null, "l": [1, 2], "t": ["p"]}})", "c");
  const auto a = view.at("a");
  EXPECT_EQ(a.integer("n"), 3);
  EXPECT_EQ(a.integer("m"), 4);
  EXPECT_EQ(a.real("x"), 1.5);
  EXPECT_EQ(a.real("n"), 3.0);
  EXPECT_EQ(a.text("s"), "t");
  EXPECT_TRUE(a.boolean("b"));
  EXPECT_EQ(a.at("l").integers(), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(a.at("t").texts(), (std::vector<std::string>{"p"}));
  EXPECT_EQ(a.integer("none", 7), 7);
  EXPECT_EQ(a.integer("z", 8), 8);
  EXPECT_FALSE(a.has("z"));
  EXPECT_EQ(view.at("a").keys().size(), 8U);
}

TEST(Json, AViewOutlivesItsDocument) {
  const auto inner = [] { return parse_json(R"({"a": [{"b": "kept"}]})", "c").at("a").at(std::size_t{0}); }();
  EXPECT_EQ(inner.text("b"), "kept");
}

TEST(Json, NamesFileAndKeyPathOfAWrongType) {
  const std::string text = R"({"v": {"list": [1, {"n": "big"}]}, "f": 0.5, "u": 18446744073709551615})";
  EXPECT_EQ(complaint(text, [](const JsonView& v) { v.at("v").at("list").at(1).integer("n"); }),
            "c.json: v.list[1].n is \"big\", a whole number is expected");
  EXPECT_EQ(complaint(text, [](const JsonView& v) { v.at("v").text("name"); }), "c.json: v: the key 'name' is missing");
  EXPECT_EQ(complaint(text, [](const JsonView& v) { v.text("v"); }), "c.json: v is an object, a text is expected");
  EXPECT_EQ(complaint(text, [](const JsonView& v) { v.integer("f", 3); }),
            "c.json: f is 0.5, a whole number is expected");
  EXPECT_EQ(complaint(text, [](const JsonView& v) { v.integer("u"); }),
            "c.json: u is 18446744073709551615, a number of 64 bits is expected");
  EXPECT_EQ(complaint(text, [](const JsonView& v) { v.at("v").at("list").at(2); }), "c.json: v.list: element 2 of 2");
  EXPECT_EQ(complaint("[1]", [](const JsonView& v) { v.at("a"); }), "c.json is a list, an object is expected");
}

TEST(Json, SaysWhereATextDoesNotParse) {
  const auto said = complaint("{\"a\": 1,\n  \"b\": }", [](const JsonView&) {});
  EXPECT_NE(said.find("c.json: not JSON: parse error at line 2, column 8"), std::string::npos) << said;
  EXPECT_NE(complaint("\"\xff\"", [](const JsonView&) {}).find("UTF-8"), std::string::npos);
  EXPECT_NE(complaint("", [](const JsonView&) {}).find("not JSON"), std::string::npos);
  EXPECT_NE(complaint("{} {}", [](const JsonView&) {}).find("not JSON"), std::string::npos);
}

TEST(Json, RefusesDeepNestingAndLargeTexts) {
  EXPECT_EQ(complaint(std::string(5'000'000, '['), [](const JsonView&) {}), "c.json: JSON nested deeper than 64");
  EXPECT_NO_THROW(parse_json(std::string(64, '[') + std::string(64, ']'), "c"));
  EXPECT_THROW(parse_json(std::string(65, '[') + std::string(65, ']'), "c"), RequestError);
  EXPECT_THROW(parse_json("[1, 2, 3]", "c", {.max_bytes = 8}), RequestError);
}

TEST(Json, WritesWhatItReads) {
  testing_support::TempDir dir;
  write_json(dir / "a.json", {{"b", 1}, {"a", "ü"}});
  EXPECT_EQ(read_file(dir / "a.json"), "{\n  \"a\": \"ü\",\n  \"b\": 1\n}\n");
  EXPECT_EQ(read_json(dir / "a.json").text("a"), "ü");
}

}  // namespace
}  // namespace tessera
