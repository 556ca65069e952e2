"""Texts that tokenizers trip over. Deterministic; shared by the golden scripts of this folder."""
import random


def fixed():
    s = [
        "", " ", "  ", "   ", "\n", "\n\n", "\t", " \n ", "\r\n", "a", " a", "a ", " a ", "  a  b   c    d",
        "Hello world", "Hello, world!", "hello   world\n\n\nnext", "\u2581", "\u2581\u2581a", "a\u2581b", " \u2581 a",
        "[SEG]", " [SEG] ", "It is [SEG].", "Sure, [SEG] .", "[SEG][SEG]", "[SEG]\n[SEG]", "x[SEG]y", "[seg]", "[SEG",
        "<s>", "</s>", "<unk>", "<s> a </s> b", "a</s>b", "a </s> b", "</s>USER: hi", "</s> USER: hi", "<unk><unk>",
        "<unk>x", "</s></s>", "<s><s>a", "<0x0A>", "<0xFF>", "a<0x41>b", "<pad>", "[PAD]", "[PAD] x",
        "<im_start><im_end>", "<im_start>\nCan you", "<im_end>\nCan you segment the dog in this image?",
        "<im_start> a <im_end> b", "<im_patch>", "<image>", "USER: <image>\nWhat is it? ASSISTANT: [SEG].</s>",
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|>", "a<|endoftext|>b",
        "<|im_end|>\u0338", "<|im_start|", "|im_end|>",
        "I'm you're we've they'll he'd it's don't", "I'M YOU'RE WE'VE THEY'LL HE'D IT'S DON'T", "'\u017f 'S \u017f",
        "it\u2019s \u201cquoted\u201d \u2026 \u2014 \u2013", "3.14159 1,234,567 0xFF 1e-5 1/2", "0123456789", "1 22 333 4444",
        "\u0661\u0662\u0663 \u096a\u096b \u2167 \u00bd \u00b2 \u2460", "(a) [b] {c} <d>", "!!!???...,,,;;;", "#!/bin/sh",
        "# heading\n## two\n### three\n#### four ##### five", "a#b #c #", "##", "#include <stdio.h>", "#1 #tag",
        "def f(x):\n    return x**2\n\n\tif x:\n\t\tpass\n", "{\"a\": [1, 2.5, null]}", "a\\b\\\\c \\n \\u0041",
        "http://example.com/a?b=c&d=%20#e", "user@example.org", "C:\\Users\\x", "$5.00 \u20ac7 \u00a39 \u00a51", "50% off",
        "na\u00efve caf\u00e9", "nai\u0308ve cafe\u0301", "\u00c5 A\u030a \u212b", "\uac00 \u1100\u1161", "\u1e9b\u0323", "\ufb01 \ufb02", "o\u0302\u0323",
        "\u00e9\u0301\u0301", "\u0301", " \u0301a", "q\u0307\u0323", "\u0958", "\u2126 \u03a9",
        "\u4f60\u597d\uff0c\u4e16\u754c", "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8", "\ud55c\uad6d\uc5b4 \uc2dc\ud5d8", "\u4f60 \u597d", "\u4e2d\u6587english\u6df7\u5408123", "\u3000\u5168\u89d2\u3000",
        "\u3042\u3044\u3046\u3048\u304a", "\uff21\uff22\uff23\uff11\uff12\uff13", "\u9f98\u9750\u9f49\U00020000\U0002a6d6",
        "\U0001f600", "\U0001f600\U0001f603\U0001f604", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1e9\U0001f1ea \U0001f1eb\U0001f1f7",
        "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "a\U0001f600b", "\u263a", "\U0001f9d1\U0001f3fb\u200d\U0001f4bb",
        "\u0421\u043b\u0430\u0432\u0430 \u0423\u043a\u0440\u0430\u0457\u043d\u0456", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
        "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u03ba\u03cc\u03c3\u03bc\u03b5", "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0",
        "\u12a0\u121b\u122d\u129b", "\u1780\u1798\u17d2\u1796\u17bb\u1787\u17b6", "ti\u1ebfng Vi\u1ec7t", "\u0130stanbul \u0131", "stra\u00dfe STRASSE",
        "\u0000", "a\u0000b", "\u0001\u0002\u0003", "\u001b[31mred\u001b[0m", "\u007f", "\u0080\u009f", "a\u0085b", "\u001c\u001d\u001e\u001f",
        "\u00a0", "a\u00a0b", "\u00a0a ", "\u200b", "a\u200bb", "\u200c\u200d", "\u200e\u200f", "\u2028\u2029", "a\u2028b", "\u202f", "\u205f",
        "\u1680", "\u180e", "a\u180eb", "\u2000\u2001\u2002\u2003\u2004", "\ufeff", "\ufeffa", "\ufffd", "\ufffe", "\uffff", "\ue000", "\U000f0000", "\U0010ffff",
        "\u00ad", "a\u00adb", "\u2060", "\u061c", "\v", "\f", "a\vb\fc", " \t \t ", "\t\t\ta", "a\t b \tc", "a\rb", "a\r\nb\r\n\r\nc",
        " leading", "trailing ", "\nleading newline", "trailing newline\n", "  two", "   three", "    four", " " * 16, " " * 31, " " * 32, " " * 33,
        "a" + " " * 7 + "b", "\n" * 9, "\n \n \n", " \n\n a", "a \n\n b", "x" * 100, "ab" * 60, "=" * 80, "-" * 33, "." * 20, "_" * 17,
        "the refrigerator:door", "What is the object that can keep food cold? Please output segmentation mask.",
        "Antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis", "camelCaseWord snake_case_word kebab-case-word SCREAMING",
        "A chat between a curious human and an artificial intelligence assistant.", "Mr. O'Neill didn't say \"no\".",
        "[INST] <<SYS>>\nYou are\n<</SYS>>\n\nhi [/INST] yes </s><s>[INST] again [/INST]", "<s>[INST] x [/INST] y </s>",
        "Sure, it is [SEG] . And [SEG] , too !", "a  [SEG]  b", "a\u00a0[SEG]\u00a0b", "a\u3000[SEG]\u3000b", "a\u200b[SEG]\u200bb", "a\n[SEG]\nb",
        "end.</s>\nUSER: x", "<im_start><image><im_end>\n<im_start><image><im_end>", "do n't , I 'm ' ok ' !", "wait . . . what ?",
        "a<im_start> b", "a <im_start> b", "a <im_start>b", "\u00e9<im_start>", "cafe\u0301 caf\u00e9s xcaf\u00e9", "seg a seg, segs  seg",
    ]
    return s


def generated(count, seed):
    rng = random.Random(seed)
    pools = [
        "abcdefghijklmnopqrstuvwxyz", "ABCDEFG", "0123456789", " ", "  \n\t", ".,;:!?'\"()[]{}<>|/\\#-_", "\u00e0\u00e9\u00ee\u00f5\u00fc\u00df\u0153",
        "\u0430\u0431\u0432\u0433\u0434\u0436\u0437", "\u4e00\u4e8c\u4e09\u56db\u4e94\u6c34\u706b", "\u3042\u30a2\u30fc\u3001\u3002", "\U0001f600\U0001f680\U0001f9e0\u2764\ufe0f\u200d", "\u0301\u0308\u0327", "\u00a0\u2003\u3000\u200b",
        "\u0627\u0628\u062a\u062b", "\u0915\u0916\u0917\u093e\u093f\u094d", "\u0000\u0007\u001b\u0085\u009f",
    ]
    words = ["the", "image", "Segment", "[SEG]", "</s>", "<s>", "USER:", " ASSISTANT:", "<im_start>", "<im_end>", "<|im_end|>",
             "<|endoftext|>", "don't", "I'll", "12345", "\n\n", "   ", "naive", "caf\u00e9", "\u4e16\u754c", "\U0001f600", "<unk>", "."]
    out = []
    for i in range(count):
        parts = []
        for _ in range(rng.randint(1, 14)):
            if rng.random() < 0.5:
                parts.append(rng.choice(words))
            else:
                pool = rng.choice(pools)
                parts.append("".join(rng.choice(pool) for _ in range(rng.randint(1, 6))))
            if rng.random() < 0.35:
                parts.append(" ")
        out.append("".join(parts))
    return out


def all_strings(count=120, seed=7):
    texts = fixed() + generated(count, seed)
    for t in texts:
        t.encode("utf-8")  # a lone surrogate would be no text
    return texts
