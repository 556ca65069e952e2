"""Figures of the public packages beside bench_tokenizer's: python tokenizer.py FOLDER TEXT_FILE

Needs transformers==4.37.2 tokenizers==0.15.1 sentencepiece==0.1.99 protobuf==3.20.3.
"""
import pathlib
import sys
import time

from transformers import LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

folder, text = sys.argv[1:]
lines = [line for line in pathlib.Path(text).read_text().split("\n") if line]
size = sum(len(line.encode()) for line in lines)
found = {}
if pathlib.Path(folder, "tokenizer.model").exists():
    found["transformers, slow LlamaTokenizer"] = LlamaTokenizer.from_pretrained(folder)
if pathlib.Path(folder, "tokenizer.json").exists():
    found["tokenizers (fast), one line at a time"] = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
if pathlib.Path(folder, "vocab.json").exists():
    found["transformers, slow Qwen2Tokenizer"] = Qwen2Tokenizer.from_pretrained(folder)
for name, tokenizer in found.items():
    start = time.time()
    rounds = 0
    while time.time() - start < 3 or rounds == 0:
        for line in lines:
            tokenizer(line)
        rounds += 1
    print(f"{name}: {size * rounds / (time.time() - start) / 1e6:.2f} MB/s")
