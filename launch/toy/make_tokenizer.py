#!/usr/bin/env python3
"""Train the quickstart model's tokenizer (toy/lisa/tokenizer.model) on every sentence its conversations can hold.

A sentencepiece BPE of LLaMA's kind (byte fallback, dummy prefix, no normalisation) whose pieces are whole words: the
system sentence of llava_v1 takes 29 pieces, a class's name one or two. With a general tokenizer of this size a prompt
is three times as long, and a model drawn at random hardly finds the class's name in it.

The result is committed; run this only after changing make_scenes.py's names or descriptions. Needs sentencepiece 0.2.1.
"""
import io
import sys
from pathlib import Path

import sentencepiece

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import make_scenes  # noqa: E402

SYSTEM = ("A chat between a curious human and an artificial intelligence assistant. "
          "The assistant gives helpful, detailed, and polite answers to the human's questions.")
NAMING = ["Can you segment the {} in this image?", "Please segment the {} in this image.",
          "What is {} in this image? Please respond with segmentation mask.",
          "What is {} in this image? Please output segmentation mask."]
DESCRIBING = ["{} Please respond with segmentation mask.", "{} Please output segmentation mask."]
ANSWERS = ["It is", "Sure,", "Sure, it is", "Sure, the segmentation result is", "."]


def sentences():
    for name, descriptions in make_scenes.DESCRIPTIONS.items():
        questions = [form.format(name) for form in NAMING]
        questions += [form.format(text) for text in descriptions for form in DESCRIBING]
        for question in questions:
            yield f"{SYSTEM} USER: {question} ASSISTANT:"
        yield from ANSWERS


def main() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences(), model_writer=model, model_type="bpe", vocab_size=VOCABULARY, byte_fallback=True,
        character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=True, split_digits=True, allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2,
        pad_id=-1, num_threads=1, minloglevel=2)
    (HERE / "lisa" / "tokenizer.model").write_bytes(model.getvalue())


VOCABULARY = 640

if __name__ == "__main__":
    main()
