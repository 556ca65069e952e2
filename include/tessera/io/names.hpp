#pragma once
/// Public namings of the tensors of LLaVA-like models. Ours is that of the original LLaVA and LISA:
///   model.layers.… model.embed_tokens model.norm lm_head          the language model
///   model.mm_projector.{0,2}                                      the projector
///   model.vision_tower.vision_tower.vision_model.…                the tower
///   model.image_newline
/// transformers' LLaVA has two others: that of its files, and, since 4.52, that of its modules, which LoRA adapters
/// carry:
///   language_model.model.layers.…   model.language_model.layers.…
///   language_model.lm_head          lm_head
///   multi_modal_projector.linear_1  model.multi_modal_projector.linear_1     (linear_1, linear_2 are 0, 2)
///   vision_tower.…                  model.vision_tower.…
/// A tower that transformers 5 saved may lack `vision_model.`; it is put back. What trainers leave beside a model has
/// names of its own: LLaVA's mm_projector.bin and non_lora_trainables.bin, PEFT's state dicts before and since 0.6.
/// Pure functions of names. tests/golden/io/make_names.py has the public packages list theirs.
#include <optional>
#include <string>
#include <string_view>

namespace tessera::io {

/// Without what wrappers add: "module." (DeepSpeed, DataParallel), "base_model.model." (PEFT), ".base_layer." and
/// ".modules_to_save.default." inside (PEFT since 0.6). Nothing for PEFT's untouched copy of a module it trains
/// (".original_module."), whose trained one is in the file as well.
std::optional<std::string> unwrapped_name(std::string_view name);

/// Our name for a tensor of LLaVA's mm_projector.bin, whose names may carry anything in front (LLaVA's own loader looks
/// for "mm_projector." inside them); nothing for its other tensors, such as the embeddings that come along with
/// start and end tokens.
std::optional<std::string> projector_name(std::string_view name);

/// Our name for a tensor of LLaVA in any of the namings above; a name that is ours already stays.
std::string llava_name(std::string_view name);

/// The name transformers' LLaVA files have for our name; nothing for what those models do not have.
std::optional<std::string> llava_hf_name(std::string_view name);

/// The name transformers' LLaVA has for it in memory since 4.52, where adapters sit; nothing likewise.
std::optional<std::string> llava_module_name(std::string_view name);

/// Buffers that older files hold and every program computes anew: `….rotary_emb.inv_freq`, `….embeddings.position_ids`.
bool is_recomputed_buffer(std::string_view name);

}  // namespace tessera::io
