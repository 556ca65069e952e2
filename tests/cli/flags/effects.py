"""Checks that a flag has an effect, each a small object that the tables of flags hold.

A check names the flags it tries; the test sees to it that the flag of the table is among them. `base` is added to both
of the runs that are compared.
"""

import json
import re


class Check:
    def __init__(self, *flags, base=(), kind="lisa", command="train"):
        self.flags, self.base, self.kind, self.command = [str(f) for f in flags], list(base), kind, command

    def names(self):
        return {f.split("=")[0].removeprefix("--").removeprefix("no_") for f in self.flags if f.startswith("--")} | {
            f.split("=")[0].removeprefix("--") for f in self.flags if f.startswith("--")}

    def both(self, toy):
        return (toy.run(self.command, self.kind, self.base), toy.run(self.command, self.kind, self.base + self.flags))


class Curve(Check):
    """A figure of metrics.jsonl is another, step by step."""

    def __init__(self, *flags, key="loss", **rest):
        super().__init__(*flags, **rest)
        self.key = key

    def __call__(self, toy):
        without, with_it = self.both(toy)
        a, b = without.series(self.key), with_it.series(self.key)
        assert a and b and a != b, f"{self.key} is {a} with and without"


class Series(Check):
    """A figure of metrics.jsonl is what `expected` says of it."""

    def __init__(self, *flags, key, expected, **rest):
        super().__init__(*flags, **rest)
        self.key, self.expected = key, expected

    def __call__(self, toy):
        without, with_it = self.both(toy)
        got = with_it.series(self.key)
        assert self.expected(got), (self.key, got)
        assert not self.expected(without.series(self.key)), "the same without the flag"


class Told(Check):
    """What `read` finds in both runs stands to each other as the flag promises."""

    def __init__(self, *flags, read, holds, **rest):
        super().__init__(*flags, **rest)
        self.read, self.holds = read, holds

    def __call__(self, toy):
        without, with_it = (self.read(run) for run in self.both(toy))
        assert self.holds(without, with_it), f"{without!r:.200} without, {with_it!r:.200} with"
        assert not self.holds(without, without), "the flag is promised nothing that is not so without it"


class Text(Check):
    """What a pattern finds in the output is another. Finds nothing in one of them: that counts as well."""

    def __init__(self, pattern, *flags, **rest):
        super().__init__(*flags, **rest)
        self.pattern = pattern

    def __call__(self, toy):
        without, with_it = (re.findall(self.pattern, r.output) for r in self.both(toy))
        assert without != with_it, f"'{self.pattern}' finds {without} with and without"
        assert without or with_it


class Files(Check):
    """`path`, in the run's folder or absolute, is there with the flag and not without, or the other way round."""

    def __init__(self, path, *flags, there=True, **rest):
        super().__init__(*flags, **rest)
        self.path, self.there = path, there

    def __call__(self, toy):
        without, with_it = self.both(toy)
        assert bool(list(with_it.folder.glob(self.path))) is self.there, self.path
        assert bool(list(without.folder.glob(self.path))) is not self.there, f"{self.path} without the flag"


class Output(Check):
    """What the command writes into its output, as the toy reads it, is another."""

    def __call__(self, toy):
        without, with_it = self.both(toy)
        assert without.written() != with_it.written(), "the same is written"


class Refused(Check):
    """With the flag the request is refused, in one line with these words; without, it is not."""

    def __init__(self, *flags, words=(), **rest):
        super().__init__(*flags, **rest)
        self.words = words

    def __call__(self, toy):
        toy.run(self.command, self.kind, self.base)
        refused = toy.run(self.command, self.kind, self.base + self.flags, status=2)
        errors = [line for line in refused.output.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, refused.output
        assert all(word in errors[0] for word in self.words), errors


class Needed(Check):
    """Without the flag the request is refused; with it, it is not."""

    def __call__(self, toy):
        toy.run(self.command, self.kind, self.base, status=2)
        toy.run(self.command, self.kind, self.base + self.flags)


class Fails(Check):
    """With the flag the run fails with these words; without, it does not."""

    def __init__(self, *flags, words, **rest):
        super().__init__(*flags, **rest)
        self.words = words

    def __call__(self, toy):
        toy.run(self.command, self.kind, self.base)
        failed = toy.run(self.command, self.kind, self.base + self.flags, status=1)
        assert all(word in failed.output for word in self.words), failed.output


class Threads(Check):
    """The command has more threads at once, for as long as it runs."""

    def __call__(self, toy):
        few, many = (toy.most_threads(self.command, self.kind, self.base + extra) for extra in ([], self.flags))
        assert many > few, f"{few} threads without, {many} with"


class Shown(Check):
    """Another test shows it: the file that has it, words of it, and the ctest it belongs to."""

    def __init__(self, ctest, file, words, flag=None):
        super().__init__()
        self.ctest, self.file, self.words, self.flag = ctest, file, words, flag

    def names(self):
        return None  # of the flag's own test

    def __call__(self, toy):
        text = (toy.source / self.file).read_text()
        assert self.words in text, f"{self.file} has no '{self.words}'"
        assert any(name.startswith(self.ctest) for name in toy.ctests()), f"no ctest is called {self.ctest}"


def plan_lines(*flags, **rest):
    return Text(r"plan: .*", *flags, **rest)


def trained(*flags, **rest):
    """The number of weights that train is another."""
    return Text(r"model: .* parameters, (\d+) trained", *flags, **rest)


def quantised(effect):
    """The flags of a quantised base, which `train`, `plan` and `forward` share."""
    return {
        "quantize": effect("--quantize", "nf4"),
        "double_quant": effect("--double_quant", "true", base=["--quantize", "nf4"]),
        "llm_int8_threshold": effect("--llm_int8_threshold", "0.5", base=["--quantize", "int8"]),
        "llm_int8_skip_modules": effect("--llm_int8_skip_modules", "mlp", base=["--quantize", "nf4"]),
    }


def loaded_in_bits(effect):
    """The same by the names of transformers' and LLaVA's arguments."""
    return {
        "load_in_4bit": effect("--load_in_4bit"),
        "load_in_8bit": effect("--load_in_8bit"),
        "bits": effect("--bits", "4"),
        "quant_type": effect("--quant_type", "fp4", base=["--bits", "4"]),
    }


def steps(number, *flags, **rest):
    return Series(*flags, key="loss", expected=lambda got: len(got) == number, **rest)


def read_metrics(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
