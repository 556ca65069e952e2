#include "tessera/models/vocabulary.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "nn/support.hpp"
#include "support/support.hpp"
#include "tessera/core/error.hpp"
#include "tessera/io/tensor_file.hpp"
#include "tessera/nn/init.hpp"

namespace tessera::models {
namespace {

const std::vector<std::string> kTensors{"model.embed_tokens.weight", "lm_head.weight"};

struct Files {
  testing_support::TempDir dir;
  at::Tensor embedding = at::randn({37, 5}), head = at::randn({37, 5}).to(at::kBFloat16), norm = at::ones({5});
  io::SourcePtr source;
  Files() {
    io::write_tensors(dir / "w.safetensors", {{kTensors[0], embedding}, {kTensors[1], head}, {"model.norm", norm}});
    source = std::make_shared<io::SafetensorsReader>(dir / "w.safetensors");
  }
};

// smart_tokenizer_and_embedding_resize: embeddings[-n:] = embeddings[:-n].mean(dim=0, keepdim=True), input and output.
TEST(Vocabulary, NewRowsAreTheMeanOfTheOldOnesInEachTensor) {
  const Files files;
  const auto grown = grow_vocabulary(files.source, {.tensors = kTensors, .rows = 40});
  for (const auto& [name, old] : {std::pair(kTensors[0], files.embedding), std::pair(kTensors[1], files.head)}) {
    const at::Tensor all = io::read_tensor(*grown, name);
    ASSERT_EQ(all.sizes(), (std::vector<std::int64_t>{40, 5}));
    const at::Tensor wide = old.to(at::kFloat);
    EXPECT_TRUE(all.narrow(0, 0, 37).equal(wide)) << name;
    const at::Tensor mean = wide.mean(0, /*keepdim=*/true).expand({3, 5});
    EXPECT_LT(testing_support::distance(all.narrow(0, 37, 3), mean), 1e-6) << name;
    EXPECT_GT(testing_support::distance(all.narrow(0, 36, 1), mean.narrow(0, 0, 1)), 1e-3) << name;
  }
  EXPECT_TRUE(io::read_tensor(*grown, "model.norm").equal(files.norm));
  EXPECT_EQ(grown->where(*grown->find(kTensors[0])), (files.dir / "w.safetensors").string());
}

// transformers' resize_token_embeddings: the new rows are initialised like a fresh embedding. Ours are those that the
// engine draws for a weight of this name that no file holds.
TEST(Vocabulary, NormalRowsAreThoseOfAFreshWeightOfTheSameName) {
  const Files files;
  const VocabularyGrowth growth{.tensors = kTensors, .rows = 4037, .fill = NewRows::normal, .std = 0.02, .seed = 11};
  const at::Tensor all = io::read_tensor(*grow_vocabulary(files.source, growth), kTensors[0]);
  nn::ParamState fresh;
  fresh.name = kTensors[0];
  fresh.shape = {4037, 5};
  fresh.init = nn::Init::normal(0.02);
  at::Tensor drawn = at::empty(fresh.shape, at::kFloat);
  nn::fill_init(fresh, 11, 0, fresh.numel(), drawn.data_ptr<float>());
  EXPECT_TRUE(all.narrow(0, 0, 37).equal(files.embedding));
  const at::Tensor rows = all.narrow(0, 37, 4000);
  EXPECT_TRUE(rows.equal(drawn.narrow(0, 37, 4000)));
  // 20,000 draws: the mean's own deviation is 0.02 / sqrt(20000) = 1.4e-4, that of the standard deviation 1e-4.
  EXPECT_NEAR(rows.mean().item<double>(), 0.0, 6e-4);
  EXPECT_NEAR(rows.std().item<double>(), 0.02, 4e-4);
}

TEST(Vocabulary, ARangeAcrossTheOldAndTheNewRowsIsThatOfTheWhole) {
  const Files files;
  for (const NewRows fill : {NewRows::mean, NewRows::normal}) {
    const auto grown = grow_vocabulary(files.source, {.tensors = kTensors, .rows = 40, .fill = fill});
    const io::TensorInfo& info = *grown->find(kTensors[1]);
    const at::Tensor flat = io::read_tensor(*grown, info).flatten();
    for (const auto& [begin, count] : {std::pair(0, 200), std::pair(183, 4), std::pair(187, 13), std::pair(3, 181)}) {
      at::Tensor piece = at::empty({count}, at::kFloat);
      grown->will_read(info, begin, count);
      grown->read_f32(info, begin, count, piece.data_ptr<float>());
      EXPECT_TRUE(piece.equal(flat.narrow(0, begin, count))) << begin << " + " << count;
    }
    at::Tensor piece = at::empty({8}, at::kFloat);
    EXPECT_THROW(grown->read_f32(info, 196, 8, piece.data_ptr<float>()), RequestError);
  }
}

TEST(Vocabulary, ATensorThatHasTheRowsAlreadyStaysAsItIs) {
  const Files files;
  const auto grown = grow_vocabulary(files.source, {.tensors = kTensors, .rows = 37});
  EXPECT_EQ(grown->find(kTensors[1])->type, io::Elem::bf16);
  EXPECT_TRUE(io::read_tensor(*grown, kTensors[1]).equal(files.head));
  const auto smaller = grow_vocabulary(files.source, {.tensors = kTensors, .rows = 20});
  EXPECT_EQ(smaller->find(kTensors[0])->shape[0], 37);
}

TEST(Vocabulary, KnowsItsNames) {
  EXPECT_EQ(new_rows_from_name("mean"), NewRows::mean);
  EXPECT_EQ(new_rows_from_name("normal"), NewRows::normal);
  EXPECT_THROW(new_rows_from_name("zeros"), RequestError);
}

}  // namespace
}  // namespace tessera::models
