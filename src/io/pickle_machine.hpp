#pragma once
// The stack machine that runs a pickle, one opcode after another, over bytes in memory.
#include <cstddef>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/pickle_node.hpp"

namespace tessera::io {

/// Which names a pickle may use, and what becomes of them. The base knows collections.OrderedDict alone.
class PickleHooks {
 public:
  virtual ~PickleHooks() = default;
  virtual bool knows(std::string_view global) const;
  /// The value of calling `global` on `arguments`; nullptr where such a call is not understood.
  virtual PickleNode* call(PickleArena& arena, const std::string& global, const PickleNode::Items& arguments);
  /// The value a persistent id stands for; nullptr where there are none.
  virtual PickleNode* persistent(PickleArena& arena, const PickleNode& id);
};

class PickleMachine {
 public:
  PickleMachine(PickleArena& arena, PickleHooks& hooks, std::span<const std::byte> bytes, PickleLimits limits);
  /// Runs to STOP. The tree it returns has no cycle and keeps the limits.
  PickleNode* run();
  std::size_t consumed() const noexcept { return at_; }

 private:
  bool step(unsigned char opcode);
  bool step_number(unsigned char opcode);
  bool step_string(unsigned char opcode);
  bool step_container(unsigned char opcode);
  bool step_memo(unsigned char opcode);
  bool step_call(unsigned char opcode);

  [[noreturn]] void fail(std::string_view what) const;
  std::string_view take(std::uint64_t bytes);
  std::uint64_t number(int bytes);
  std::string_view line();
  PickleNode* pop();
  PickleNode* top();
  PickleNode::Items pop_to_mark();
  void push(PickleNode* node) { stack_.push_back(node); }
  template <class T>
  void push_new(PickleKind kind, T&& data) {
    push(arena_.make(kind, std::forward<T>(data)));
  }
  void push_long(std::string_view little_endian);
  void push_integer_line(std::string_view text);
  void push_global(const std::string& module, const std::string& name);
  void tuple_of(std::size_t count);
  void append(PickleNode* list, const PickleNode::Items& items);
  void set_items(PickleNode* dict, const PickleNode::Items& items);
  void remember(std::uint64_t index);
  void recall(std::uint64_t index);
  void check(PickleNode* root) const;

  PickleArena& arena_;
  PickleHooks& hooks_;
  std::span<const std::byte> bytes_;
  PickleLimits limits_;
  std::size_t at_ = 0;
  std::vector<PickleNode*> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, PickleNode*> memo_;
};

}  // namespace tessera::io
