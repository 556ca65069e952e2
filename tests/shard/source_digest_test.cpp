// The digest of weights as files hold them: of what they say, not of how they are cut, named around or read.
#include "tessera/shard/source_digest.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "support/limits.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/mpi_env.hpp"
#include "tessera/core/error.hpp"

namespace tessera::shard {
namespace {

// One tensor of whole numbers, more than one piece of it, and a small one.
class Memory final : public io::TensorSource {
 public:
  explicit Memory(const std::string& prefix) {
    tensors_ = {{prefix + "bias", io::Elem::f32, {5}}, {prefix + "weight", io::Elem::f32, {1023, 1025}}};
  }
  const std::vector<io::TensorInfo>& tensors() const override { return tensors_; }
  void read(const io::TensorInfo&, std::int64_t begin, std::int64_t count, void* out) const override {
    for (std::int64_t i = 0; i < count; ++i) {
      const auto value = static_cast<float>((begin + i) % 1001) + (begin + i == changed ? 1.0F : 0.0F);
      std::memcpy(static_cast<char*>(out) + i * 4, &value, 4);
    }
  }
  std::string where(const io::TensorInfo&) const override { return "memory"; }
  std::int64_t changed = -1;

 private:
  std::vector<io::TensorInfo> tensors_;
};

std::vector<nn::Param> params_of(nn::ModelLayout& layout, const std::string& prefix, std::int64_t rows = 1023) {
  const auto unit = layout.add_unit("unit");
  return {layout.add(unit, prefix + "weight", {rows, 1025}, nn::Init::zeros()),
          layout.add(unit, prefix + "bias", {5}, nn::Init::zeros())};
}

class SourceDigest : public testing::Test {
 protected:
  std::uint64_t digest(const Memory& source, const std::string& prefix) {
    nn::ModelLayout layout;
    return source_digest(
        source, params_of(layout, prefix), [&](const nn::ParamState& p) { return p.name.substr(prefix.size()); },
        *comm);
  }
  comm::MpiEnv env{nullptr, nullptr};
  std::unique_ptr<comm::Communicator> comm = comm::make_mpi(env);
};

TEST_F(SourceDigest, IsTheSameForAnyNumberOfRanksAndAnyPrefix) {
  const auto found = digest(Memory("a."), "a.");
  EXPECT_EQ(found, digest(Memory("somewhere.else."), "somewhere.else."));
  EXPECT_EQ(found, 0xac0f5aa6dc85f5bfULL);  // as one rank found it
}

TEST_F(SourceDigest, ChangesWithEachElement) {
  const auto sound = digest(Memory("a."), "a.");
  for (const std::int64_t at : {0, 4, 524288, 1023 * 1025 - 1}) {
    Memory other("a.");
    other.changed = at;
    EXPECT_NE(digest(other, "a."), sound) << at;
  }
}

TEST_F(SourceDigest, NamesWhatIsMissingOrOfAnotherShape) {
  nn::ModelLayout layout, wide;
  const auto name = [](const nn::ParamState& p) { return p.name; };
  EXPECT_NE(testing_support::message_of<RequestError>([&] {
              source_digest(Memory("b."), params_of(layout, "a."), name, *comm);
            }).find("a.weight"),
            std::string::npos);
  const auto said = testing_support::message_of<RequestError>(
      [&] { source_digest(Memory("a."), params_of(wide, "a.", 1024), name, *comm); });
  EXPECT_NE(said.find("[1023, 1025]"), std::string::npos) << said;
}

}  // namespace
}  // namespace tessera::shard
