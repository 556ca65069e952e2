#include "io/pickle_machine.hpp"

#include <algorithm>
#include <bit>
#include <charconv>

#include "io/pickle_text.hpp"
#include "tessera/core/error.hpp"

// The opcodes are those of Python's pickletools, written as there: a letter or a byte above 0x80.
namespace tessera::io {

void PickleArena::spend(std::int64_t values) {
  if (values > left_) throw RequestError("'{}': the pickle builds too many values", origin_);
  left_ -= values;
}

bool PickleHooks::knows(std::string_view global) const {
  return global == "collections.OrderedDict";
}

PickleNode* PickleHooks::call(PickleArena& arena, const std::string& global, const PickleNode::Items& arguments) {
  if (global != "collections.OrderedDict" || arguments.size() > 1) return nullptr;
  PickleNode::Items entries;
  if (!arguments.empty()) {  // Python 2: a list of pairs
    const auto* pairs = arguments[0]->items();
    if (pairs == nullptr || arguments[0]->kind == PickleKind::dict) return nullptr;
    arena.spend(static_cast<std::int64_t>(pairs->size()));  // one list may be given to many calls
    for (const PickleNode* pair : *pairs) {
      const auto* both = pair->items();
      if (both == nullptr || both->size() != 2 || pair->kind == PickleKind::dict) return nullptr;
      entries.insert(entries.end(), both->begin(), both->end());
    }
  }
  return arena.make(PickleKind::dict, std::move(entries));
}

PickleNode* PickleHooks::persistent(PickleArena&, const PickleNode&) {
  return nullptr;
}

PickleMachine::PickleMachine(PickleArena& arena, PickleHooks& hooks, std::span<const std::byte> bytes,
                             PickleLimits limits)
    : arena_(arena), hooks_(hooks), bytes_(bytes), limits_(limits) {}

void PickleMachine::fail(std::string_view what) const {
  throw RequestError("'{}': pickle, at its byte {}: {}", arena_.origin(), at_, what);
}

std::string_view PickleMachine::take(std::uint64_t bytes) {
  if (bytes > bytes_.size() - at_) fail("it ends early");
  const std::string_view out(reinterpret_cast<const char*>(bytes_.data()) + at_, bytes);
  at_ += bytes;
  return out;
}

std::uint64_t PickleMachine::number(int bytes) {
  std::uint64_t value = 0;
  const std::string_view raw = take(static_cast<std::uint64_t>(bytes));
  for (std::size_t i = raw.size(); i-- > 0;) value = (value << 8) | static_cast<unsigned char>(raw[i]);
  return value;
}

std::string_view PickleMachine::line() {
  const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + at_, bytes_.size() - at_);
  const std::size_t end = rest.find('\n');
  if (end == std::string_view::npos) fail("a line without an end");
  at_ += end + 1;
  std::string_view text = rest.substr(0, end);
  if (text.ends_with('\r')) text.remove_suffix(1);  // written by Python 2 on Windows
  return text;
}

PickleNode* PickleMachine::top() {
  const std::size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() <= floor) fail("nothing is on the stack");
  return stack_.back();
}

PickleNode* PickleMachine::pop() {
  PickleNode* node = top();
  stack_.pop_back();
  return node;
}

PickleNode::Items PickleMachine::pop_to_mark() {
  if (marks_.empty()) fail("no mark is on the stack");
  const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  PickleNode::Items items(begin, stack_.end());
  stack_.erase(begin, stack_.end());
  marks_.pop_back();
  return items;
}

PickleNode* PickleMachine::run() {
  while (true) {
    const auto opcode = static_cast<unsigned char>(take(1)[0]);
    if (opcode == '.') break;
    if (!step(opcode)) fail(fmt::format("the opcode 0x{:02x} is not supported", opcode));
  }
  PickleNode* root = pop();
  check(root);
  return root;
}

bool PickleMachine::step(unsigned char opcode) {
  switch (opcode) {
    case 0x80:  // PROTO
      if (number(1) > 5) fail("a protocol above 5");
      return true;
    case 0x95:
      take(8);
      return true;  // FRAME: only its length
    case '(':
      marks_.push_back(stack_.size());
      return true;
    case '0':
      if (!marks_.empty() && marks_.back() == stack_.size()) {
        marks_.pop_back();
      } else {
        pop();
      }
      return true;
    case '1':
      pop_to_mark();
      return true;
    case '2':
      push(top());
      return true;
    case 'N':
      push_new(PickleKind::none, std::monostate{});
      return true;
    case 0x88:
      push_new(PickleKind::boolean, true);
      return true;
    case 0x89:
      push_new(PickleKind::boolean, false);
      return true;
    default:
      return step_number(opcode) || step_string(opcode) || step_container(opcode) || step_memo(opcode) ||
             step_call(opcode);
  }
}

void PickleMachine::push_long(std::string_view raw) {
  // Two's complement, little-endian, as short as it can be.
  if (raw.size() > 8) {
    push_new(PickleKind::other, PickledBigInteger{});
    return;
  }
  std::uint64_t value = !raw.empty() && (raw.back() & 0x80) != 0 ? ~std::uint64_t{0} : 0;
  for (std::size_t i = raw.size(); i-- > 0;) value = (value << 8) | static_cast<unsigned char>(raw[i]);
  push_new(PickleKind::integer, static_cast<std::int64_t>(value));
}

void PickleMachine::push_integer_line(std::string_view text) {
  std::int64_t value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (stop != text.data() + text.size() || error == std::errc::invalid_argument) fail("a malformed number");
  if (error == std::errc::result_out_of_range) {
    push_new(PickleKind::other, PickledBigInteger{});
  } else {
    push_new(PickleKind::integer, value);
  }
}

bool PickleMachine::step_number(unsigned char opcode) {
  switch (opcode) {
    case 'J':
      push_new(PickleKind::integer, std::int64_t{static_cast<std::int32_t>(number(4))});
      return true;
    case 'K':
      push_new(PickleKind::integer, static_cast<std::int64_t>(number(1)));
      return true;
    case 'M':
      push_new(PickleKind::integer, static_cast<std::int64_t>(number(2)));
      return true;
    case 0x8a:
      push_long(take(number(1)));
      return true;
    case 0x8b:
      push_long(take(number(4)));
      return true;
    case 'G': {  // big-endian
      std::uint64_t bits = 0;
      for (const char c : take(8)) bits = (bits << 8) | static_cast<unsigned char>(c);
      push_new(PickleKind::real, std::bit_cast<double>(bits));
      return true;
    }
    case 'I': {
      const std::string_view text = line();
      if (text == "00" || text == "01") {
        push_new(PickleKind::boolean, text == "01");
      } else {
        push_integer_line(text);
      }
      return true;
    }
    case 'L': {
      std::string_view text = line();
      if (text.ends_with('L')) text.remove_suffix(1);
      push_integer_line(text);
      return true;
    }
    case 'F': {
      const std::string_view text = line();
      double value = 0;
      const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      if (stop != text.data() + text.size() || error != std::errc{}) fail("a malformed number");
      push_new(PickleKind::real, value);
      return true;
    }
    default:
      return false;
  }
}

bool PickleMachine::step_string(unsigned char opcode) {
  const auto text = [&](int length_bytes, PickleKind kind) {
    push_new(kind, std::string(take(number(length_bytes))));
    return true;
  };
  switch (opcode) {
    case 'X':
      return text(4, PickleKind::text);
    case 0x8c:
      return text(1, PickleKind::text);
    case 0x8d:
      return text(8, PickleKind::text);
    case 'T':
      return text(4, PickleKind::text);  // the str of Python 2
    case 'U':
      return text(1, PickleKind::text);
    case 'B':
      return text(4, PickleKind::bytes);
    case 'C':
      return text(1, PickleKind::bytes);
    case 0x8e:
      return text(8, PickleKind::bytes);
    case 'S':
    case 'V': {
      auto value = opcode == 'S' ? unquote_python2(line()) : decode_raw_unicode_escape(line());
      if (!value) fail("a malformed text");
      push_new(PickleKind::text, std::move(*value));
      return true;
    }
    default:
      return false;
  }
}

void PickleMachine::tuple_of(std::size_t count) {
  PickleNode::Items items(count);
  for (std::size_t i = count; i-- > 0;) items[i] = pop();
  push_new(PickleKind::tuple, std::move(items));
}

void PickleMachine::append(PickleNode* list, const PickleNode::Items& items) {
  if (list->kind != PickleKind::list) fail("an append to what is not a list");
  list->items()->insert(list->items()->end(), items.begin(), items.end());
}

void PickleMachine::set_items(PickleNode* dict, const PickleNode::Items& items) {
  if (dict->kind != PickleKind::dict) fail("an item set on what is not a dict");
  if (items.size() % 2 != 0) fail("a key without a value");
  dict->items()->insert(dict->items()->end(), items.begin(), items.end());
}

bool PickleMachine::step_container(unsigned char opcode) {
  switch (opcode) {
    case ']':
      push_new(PickleKind::list, PickleNode::Items{});
      return true;
    case '}':
      push_new(PickleKind::dict, PickleNode::Items{});
      return true;
    case ')':
      push_new(PickleKind::tuple, PickleNode::Items{});
      return true;
    case 0x85:
      tuple_of(1);
      return true;
    case 0x86:
      tuple_of(2);
      return true;
    case 0x87:
      tuple_of(3);
      return true;
    case 't':
      push_new(PickleKind::tuple, pop_to_mark());
      return true;
    case 'l':
      push_new(PickleKind::list, pop_to_mark());
      return true;
    case 'd': {
      const auto items = pop_to_mark();
      push_new(PickleKind::dict, PickleNode::Items{});
      set_items(top(), items);
      return true;
    }
    case 'a': {
      PickleNode* value = pop();
      append(top(), {value});
      return true;
    }
    case 'e': {
      const auto items = pop_to_mark();
      append(top(), items);
      return true;
    }
    case 's': {
      PickleNode* value = pop();
      PickleNode* key = pop();
      set_items(top(), {key, value});
      return true;
    }
    case 'u': {
      const auto items = pop_to_mark();
      set_items(top(), items);
      return true;
    }
    default:
      return false;
  }
}

void PickleMachine::remember(std::uint64_t index) {
  memo_[index] = top();
}

void PickleMachine::recall(std::uint64_t index) {
  const auto it = memo_.find(index);
  if (it == memo_.end()) fail(fmt::format("the memo has no entry {}", index));
  push(it->second);
}

bool PickleMachine::step_memo(unsigned char opcode) {
  const auto index_line = [&] {
    const std::string_view text = line();
    std::uint64_t index = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), index);
    if (error != std::errc{} || stop != text.data() + text.size()) fail("a malformed memo index");
    return index;
  };
  switch (opcode) {
    case 'q':
      remember(number(1));
      return true;
    case 'r':
      remember(number(4));
      return true;
    case 'p':
      remember(index_line());
      return true;
    case 0x94:
      remember(memo_.size());
      return true;
    case 'h':
      recall(number(1));
      return true;
    case 'j':
      recall(number(4));
      return true;
    case 'g':
      recall(index_line());
      return true;
    default:
      return false;
  }
}

void PickleMachine::push_global(const std::string& module, const std::string& name) {
  std::string global = module + "." + name;
  if (!hooks_.knows(global)) {
    throw RequestError("'{}': the pickle names '{}', which is refused: only plain values and tensors are read",
                       arena_.origin(), global);
  }
  push_new(PickleKind::other, PickledGlobal{std::move(global)});
}

bool PickleMachine::step_call(unsigned char opcode) {
  switch (opcode) {
    case 'c': {
      const std::string module(line());
      push_global(module, std::string(line()));
      return true;
    }
    case 'i': {  // INST: a class called at once
      const std::string module(line());
      push_global(module, std::string(line()));
      fail("an instance of a class");
    }
    case 0x93: {
      const PickleNode* name = pop();
      const PickleNode* module = pop();
      if (name->kind != PickleKind::text || module->kind != PickleKind::text) fail("a name that is not a text");
      push_global(std::get<std::string>(module->data), std::get<std::string>(name->data));
      return true;
    }
    case 'R':     // REDUCE: callable, arguments
    case 0x81: {  // NEWOBJ: class, arguments
      const PickleNode* arguments = pop();
      const PickleNode* callee = pop();
      const auto* global = std::get_if<PickledGlobal>(&callee->data);
      if (global == nullptr || arguments->kind != PickleKind::tuple) fail("a call of what is not a known name");
      PickleNode* value = hooks_.call(arena_, global->name, *arguments->items());
      if (value == nullptr) fail("a call of " + global->name + " with unexpected arguments");
      push(value);
      return true;
    }
    case 'b': {  // BUILD: attributes for an object. An ordered dict may carry some (`_metadata`), which are not kept.
      pop();
      if (top()->kind != PickleKind::dict) fail("attributes for a value that has none");
      return true;
    }
    case 'Q': {
      PickleNode* value = hooks_.persistent(arena_, *pop());
      if (value == nullptr) fail("a persistent id that is not a storage");
      push(value);
      return true;
    }
    default:
      return false;
  }
}

/// Walks the tree without recursion: no value may hold itself, and height and walked size keep the limits.
void PickleMachine::check(PickleNode* root) const {
  enum : std::uint8_t { fresh, open, closed };
  struct Frame {
    PickleNode* node;
    std::size_t next = 0;
  };
  std::vector<Frame> path{{root}};
  root->state = open;
  while (!path.empty()) {
    Frame& frame = path.back();
    PickleNode* node = frame.node;
    const auto* items = node->items();
    if (items != nullptr && frame.next < items->size()) {
      PickleNode* child = (*items)[frame.next++];
      if (child->state == open) fail("a value that contains itself");
      if (child->state == fresh) {
        child->state = open;
        if (static_cast<int>(path.size()) >= limits_.max_depth) fail("values nested too deep");
        path.push_back({child});
      }
      continue;
    }
    node->state = closed;
    node->height = 1;
    node->weight = 1;
    if (items != nullptr) {
      for (const PickleNode* child : *items) {
        node->height = std::max(node->height, child->height + 1);
        node->weight += child->weight;
        if (node->weight > limits_.max_walk) fail("values shared so often that a walk over them would not end");
      }
    }
    if (node->height > limits_.max_depth) fail("values nested too deep");
    path.pop_back();
  }
}

}  // namespace tessera::io
