#include "tessera/io/pickle.hpp"

#include "io/pickle_machine.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"

namespace tessera::io {
namespace {

std::string_view kind_text(const PickleNode& node) {
  if (std::holds_alternative<std::unique_ptr<const PickledTensor>>(node.data)) return "a tensor";
  if (std::holds_alternative<PickledBigInteger>(node.data)) return "an integer beyond 64 bits";
  switch (node.kind) {
    case PickleKind::none:
      return "None";
    case PickleKind::boolean:
      return "a bool";
    case PickleKind::integer:
      return "an int";
    case PickleKind::real:
      return "a float";
    case PickleKind::text:
      return "a str";
    case PickleKind::bytes:
      return "bytes";
    case PickleKind::list:
      return "a list";
    case PickleKind::tuple:
      return "a tuple";
    case PickleKind::dict:
      return "a dict";
    case PickleKind::other:
      return "an object";
  }
  return "?";
}

/// The value under a text key, the last where it stands twice, as Python has it.
const PickleNode* find_entry(const PickleNode& dict, std::string_view key) {
  const auto& items = *dict.items();
  for (std::size_t i = items.size(); i >= 2; i -= 2) {
    const PickleNode& name = *items[i - 2];
    if (name.kind == PickleKind::text && std::get<std::string>(name.data) == key) return items[i - 1];
  }
  return nullptr;
}

}  // namespace

PickleValue::PickleValue(std::shared_ptr<const void> owner, const PickleNode* node, std::string where)
    : owner_(std::move(owner)), node_(node), where_(std::move(where)) {}

void PickleValue::expected(std::string_view what) const {
  throw RequestError("{}: {} where {} is expected", where_, kind_text(*node_), what);
}

PickleKind PickleValue::kind() const noexcept {
  return node_->kind;
}

std::size_t PickleValue::size() const noexcept {
  const auto* items = node_->items();
  if (items == nullptr) return 0;
  return node_->kind == PickleKind::dict ? items->size() / 2 : items->size();
}

PickleValue PickleValue::at(std::size_t index) const {
  if (node_->kind != PickleKind::list && node_->kind != PickleKind::tuple) expected("a list");
  if (index >= size()) throw RequestError("{}: element {} of {}", where_, index, size());
  return {owner_, (*node_->items())[index], fmt::format("{}[{}]", where_, index)};
}

PickleValue PickleValue::at(std::string_view key) const {
  if (node_->kind != PickleKind::dict) expected("a dict");
  const PickleNode* value = find_entry(*node_, key);
  if (value == nullptr) throw RequestError("{}: the key '{}' is missing", where_, key);
  return {owner_, value, fmt::format("{}['{}']", where_, key)};
}

bool PickleValue::has(std::string_view key) const {
  if (node_->kind != PickleKind::dict) return false;
  const PickleNode* value = find_entry(*node_, key);
  return value != nullptr && value->kind != PickleKind::none;
}

PickleValue PickleValue::key_at(std::size_t index) const {
  if (node_->kind != PickleKind::dict) expected("a dict");
  if (index >= size()) throw RequestError("{}: entry {} of {}", where_, index, size());
  return {owner_, (*node_->items())[2 * index], fmt::format("{} key {}", where_, index)};
}

PickleValue PickleValue::value_at(std::size_t index) const {
  if (node_->kind != PickleKind::dict) expected("a dict");
  if (index >= size()) throw RequestError("{}: entry {} of {}", where_, index, size());
  return {owner_, (*node_->items())[2 * index + 1], fmt::format("{} value {}", where_, index)};
}

std::int64_t PickleValue::integer() const {
  if (node_->kind != PickleKind::integer) expected("an int");
  return std::get<std::int64_t>(node_->data);
}

double PickleValue::real() const {
  if (node_->kind == PickleKind::integer) return static_cast<double>(integer());
  if (node_->kind != PickleKind::real) expected("a float");
  return std::get<double>(node_->data);
}

bool PickleValue::boolean() const {
  if (node_->kind != PickleKind::boolean) expected("a bool");
  return std::get<bool>(node_->data);
}

std::string PickleValue::text() const {
  if (node_->kind != PickleKind::text) expected("a str");
  return std::get<std::string>(node_->data);
}

PickleValue parse_pickle(std::span<const std::byte> bytes, const std::string& origin, PickleLimits limits) {
  if (static_cast<std::int64_t>(bytes.size()) > limits.max_bytes) {
    throw RequestError("'{}': a pickle of {} bytes, the limit is {}", origin, bytes.size(), limits.max_bytes);
  }
  auto arena = std::make_shared<PickleArena>(origin, limits.max_values);
  PickleHooks plain;
  PickleMachine machine(*arena, plain, bytes, limits);
  const PickleNode* root = machine.run();
  return {std::move(arena), root, "'" + origin + "'"};
}

PickleValue read_pickle(const std::filesystem::path& path, PickleLimits limits) {
  const std::string content = read_file(path, limits.max_bytes);
  return parse_pickle(std::as_bytes(std::span(content)), path.string(), limits);
}

}  // namespace tessera::io
