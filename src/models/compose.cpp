#include "tessera/models/compose.hpp"

#include <fmt/ranges.h>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <unordered_set>

#include "compose_config.hpp"
#include "tessera/core/error.hpp"
#include "tessera/core/file.hpp"
#include "tessera/core/json.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/io/names.hpp"
#include "tessera/models/llava.hpp"
#include "tessera/nn/init.hpp"
#include "tessera/text/extend.hpp"

namespace tessera::models {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kBlock = std::int64_t{1} << 23;  ///< elements copied at once
constexpr std::string_view kProjector = "model.mm_projector.";
constexpr std::string_view kTower = "model.vision_tower.vision_tower.";

/// Weights that no file holds, element by element from their Init.
class DrawnSource final : public io::TensorSource {
 public:
  DrawnSource(std::vector<nn::Param> params, std::uint64_t seed) : params_(std::move(params)), seed_(seed) {
    std::sort(params_.begin(), params_.end(), [](const auto& a, const auto& b) { return a->name < b->name; });
    for (const nn::Param& param : params_) tensors_.push_back({param->name, io::Elem::f32, param->shape});
  }
  const std::vector<io::TensorInfo>& tensors() const override { return tensors_; }
  std::string where(const io::TensorInfo&) const override { return "drawn"; }
  void read(const io::TensorInfo& tensor, std::int64_t begin, std::int64_t count, void* out) const override {
    const auto index = static_cast<std::size_t>(find(tensor.name) - tensors_.data());
    nn::fill_init(*params_.at(index), seed_, begin, count, static_cast<float*>(out));
  }

 private:
  std::vector<nn::Param> params_;
  std::vector<io::TensorInfo> tensors_;
  std::uint64_t seed_;
};

std::optional<std::string> language_name(std::string_view name) {
  auto plain = io::unwrapped_name(name);
  if (plain && io::is_recomputed_buffer(*plain)) return std::nullopt;
  return plain;
}

/// CLIP's files hold the vision model alone or beside the text model.
std::optional<std::string> tower_tensor_name(std::string_view name) {
  if (io::is_recomputed_buffer(name)) return std::nullopt;
  for (const std::string_view other : {"text_model.", "text_projection", "visual_projection", "logit_scale"}) {
    if (name.starts_with(other)) return std::nullopt;
  }
  return std::string(kTower) + (name.starts_with("vision_model.") ? "" : "vision_model.") + std::string(name);
}

/// The projector's tensors of LLaVA's mm_projector.bin, non_lora_trainables.bin or of a whole LLaVA.
std::optional<std::string> projector_tensor_name(std::string_view name) {
  const auto plain = io::unwrapped_name(name);
  if (!plain) return std::nullopt;
  const std::string own = io::projector_name(*plain).value_or(io::llava_name(*plain));
  return own.starts_with(kProjector) ? std::optional(own) : std::nullopt;
}

/// Whole before it has its name. The folder may be there when it is empty.
fs::path checked_output(const fs::path& output) {
  fs::path folder = fs::absolute(output).lexically_normal();
  if (folder.filename().empty()) folder = folder.parent_path();
  if (fs::exists(folder) && (!fs::is_directory(folder) || !fs::is_empty(folder))) {
    throw RequestError("{} is there already; a LLaVA is composed into a new folder", folder.string());
  }
  return folder;
}

io::Elem stored_type(const std::string& dtype, const io::TensorInfo& embedding) {
  if (dtype == "fp32") return io::Elem::f32;
  if (dtype == "bf16") return io::Elem::bf16;
  if (dtype == "fp16") return io::Elem::f16;
  if (dtype != "auto") throw RequestError("--dtype '{}' is unknown; choose auto, fp32, bf16 or fp16", dtype);
  return embedding.type == io::Elem::bf16 || embedding.type == io::Elem::f16 ? embedding.type : io::Elem::f32;
}

class Composer {
 public:
  explicit Composer(const ComposeRequest& request)
      : request_(request),
        output_(checked_output(request.output)),
        language_json_(read_language_config(request.language_model)),
        vision_json_(read_clip_config(request.vision_tower)),
        tokenizer_(extended(request, language_json_)) {
    const auto words = std::make_shared<io::RenamedSource>(io::open_weights(request.language_model), language_name);
    settle_vocabulary(*words);
    build_layout();
    gather_sources(words);
    check_fit();
  }

  ComposeReport run() {
    const io::ShardPlan plan = io::plan_shards(table_, request_.shard_bytes);
    report_.tensors = static_cast<std::int64_t>(table_.size());
    report_.elements = layout_.total_elements();
    report_.bytes = plan.total_bytes;
    report_.files = plan.files.size();
    report_.dtype = torch_name(type_);
    report_.image_token_id = tokens_.image;
    report_.pad_token_id = tokens_.pad;
    report_.rows = tokens_.rows;
    if (!request_.dry_run) write();
    return report_;
  }

 private:
  static text::ExtendedTokenizer extended(const ComposeRequest& request, const nlohmann::json& language) {
    if (request.image_token.empty() || request.pad_token.empty()) throw RequestError("a new token cannot be empty");
    text::TokenizerAdditions additions;
    additions.special = {request.image_token};
    additions.pad = request.pad_token;
    additions.processor_class = "LlavaProcessor";
    additions.tokenizer_class = language.at("model_type") == "qwen2" ? "Qwen2Tokenizer" : "LlamaTokenizer";
    return text::extend_tokenizer(request.language_model, additions);
  }

  /// Rows that the new tokens need; the types of what is written.
  void settle_vocabulary(const io::TensorSource& words) {
    const auto language = LanguageConfig::from_json(language_json_, where(), true);
    const io::TensorInfo* embedding = words.find(language.embedding_name() + ".weight");
    if (embedding == nullptr || embedding->shape.size() != 2) {
      throw RequestError("{}: no '{}.weight' of rows and columns there", request_.language_model.string(),
                         language.embedding_name());
    }
    report_.old_rows = embedding->shape[0];
    if (report_.old_rows != language.vocab_size()) {
      throw RequestError("{} has {} rows, {} says vocab_size {}", words.where(*embedding), report_.old_rows, where(),
                         language.vocab_size());
    }
    if (request_.pad_to_multiple_of < 1) throw RequestError("--pad_to_multiple_of must be at least 1");
    type_ = stored_type(request_.dtype, *embedding);
    tokens_.image = tokenizer_.tokenizer.require_id(request_.image_token);
    tokens_.pad = tokenizer_.pad_id;
    const std::int64_t needed = tokenizer_.tokenizer.size();
    const std::int64_t step = request_.pad_to_multiple_of;
    tokens_.rows = needed <= report_.old_rows ? report_.old_rows : (needed + step - 1) / step * step;
    initializer_range_ = std::get<LlamaConfig>(language.family).initializer_range;
  }

  /// Read back as any reader of the new folder will.
  void build_layout() {
    config_ = composed_config(request_, language_json_, vision_json_, tokens_, type_);
    files_ = processor_files(request_, vision_json_, tokens_);
    LlavaConfig llava = LlavaConfig::from_transformers(config_);
    tied_ = llava.language.tied();
    const LlavaModel model(layout_, std::move(llava));
  }

  void gather_sources(const io::SourcePtr& words) {
    VocabularyGrowth growth;
    growth.tensors = {"model.embed_tokens.weight", "lm_head.weight"};
    growth.rows = tokens_.rows;
    growth.fill = request_.new_rows;
    growth.std = initializer_range_;
    growth.seed = request_.seed;
    const auto tower = std::make_shared<io::RenamedSource>(io::open_weights(request_.vision_tower), tower_tensor_name);
    source_ = std::make_shared<io::OverlaySource>(
        std::vector<io::SourcePtr>{grow_vocabulary(words, growth), tower, projector()});
  }

  io::SourcePtr projector() const {
    if (!request_.projector.empty())
      return std::make_shared<io::RenamedSource>(io::open_weights(request_.projector), projector_tensor_name);
    std::vector<nn::Param> fresh;
    for (const nn::Param& param : layout_.params()) {
      if (!param->name.starts_with(kProjector)) continue;
      if (request_.projector_init == ProjectorInit::normal) {
        param->init = param->name.ends_with(".bias") ? nn::Init::zeros() : nn::Init::normal(initializer_range_);
      }
      fresh.push_back(param);
    }
    return std::make_shared<DrawnSource>(std::move(fresh), request_.seed);
  }

  void check_fit() {
    std::vector<std::string> wrong;
    std::unordered_set<std::string> taken;
    for (const nn::Param& param : layout_.params()) {
      table_.push_back({io::llava_hf_name(param->name).value(), type_, param->shape});
      taken.insert(param->name);
      const io::TensorInfo* info = source_->find(param->name);
      if (info == nullptr) {
        wrong.push_back(fmt::format("'{}' is missing", param->name));
      } else if (info->shape != param->shape) {
        wrong.push_back(fmt::format("'{}' is {} in {}, expected {}", param->name, io::shape_text(info->shape),
                                    source_->where(*info), io::shape_text(param->shape)));
      } else if (info->type != io::Elem::f32 && info->type != io::Elem::f16 && info->type != io::Elem::bf16) {
        wrong.push_back(fmt::format("'{}' is {} in {}, expected F32, F16 or BF16", param->name, io::name_of(info->type),
                                    source_->where(*info)));
      }
    }
    if (!wrong.empty()) throw RequestError("the weights do not make a LLaVA: {}", fmt::join(wrong, "; "));
    for (const io::TensorInfo& info : source_->tensors()) {
      // A tied head may be written out; it is the embedding.
      if (!taken.contains(info.name) && !(tied_ && info.name == "lm_head.weight"))
        report_.left_out.push_back(info.name);
    }
  }

  void write() const {
    if (output_.has_parent_path()) make_directories(output_.parent_path());
    PartialPath partial(output_);
    make_directories(partial.path());
    io::ModelWriter writer(partial.path(), table_, request_.shard_bytes);
    const std::vector<nn::Param> params = layout_.params();
    for (std::size_t i = 0; i < params.size(); ++i) copy(*source_->find(params[i]->name), table_[i].name, writer);
    writer.commit();
    for (const auto& [name, content] : tokenizer_.files) write_file(partial.path() / name, content);
    for (const auto& [name, content] : files_) write_json(partial.path() / name, content);
    write_json(partial.path() / "config.json", config_);
    partial.commit();
  }

  void copy(const io::TensorInfo& from, const std::string& name, io::ModelWriter& writer) const {
    std::vector<std::byte> raw;
    for (std::int64_t begin = 0; begin < from.numel(); begin += kBlock) {
      const std::int64_t count = std::min(kBlock, from.numel() - begin);
      if (from.type == type_) {
        raw.resize(static_cast<std::size_t>(count) * io::size_of(type_));
        source_->read(from, begin, count, raw.data());
        writer.write(name, begin, count, raw.data());
        continue;
      }
      at::Tensor block = at::empty({count}, at::kFloat);
      source_->read_f32(from, begin, count, block.data_ptr<float>());
      if (type_ == io::Elem::bf16) block = block.to(at::kBFloat16);
      if (type_ == io::Elem::f16) {
        block = block.to(at::kHalf);
        if (!at::isfinite(block).all().item<bool>())
          throw RequestError("'{}' of {} has values beyond fp16's range; choose --dtype bf16", from.name,
                             source_->where(from));
      }
      writer.write(name, begin, count, block.const_data_ptr());
    }
  }

  std::string where() const { return (request_.language_model / "config.json").string(); }

  const ComposeRequest& request_;
  fs::path output_;
  nlohmann::json language_json_, vision_json_, config_;
  text::ExtendedTokenizer tokenizer_;
  std::map<std::string, nlohmann::json> files_;
  ComposedTokens tokens_;
  io::Elem type_ = io::Elem::f32;
  double initializer_range_ = 0;
  bool tied_ = false;
  nn::ModelLayout layout_;
  io::SourcePtr source_;
  std::vector<io::TensorInfo> table_;  ///< in the layout's order, under the files' names
  ComposeReport report_;
};

}  // namespace

ProjectorInit projector_init_from_name(std::string_view name) {
  if (name == "uniform") return ProjectorInit::uniform;
  if (name == "normal") return ProjectorInit::normal;
  throw RequestError("a projector cannot be drawn '{}'; known are uniform, normal", name);
}

ComposeReport compose_llava(const ComposeRequest& request) {
  return Composer(request).run();
}

}  // namespace tessera::models
