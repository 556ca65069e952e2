"""Every flag that --help lists has a check of its effect in the tables of tests/cli/flags, and every check passes.

A flag that is added without an entry fails here, as does an entry whose flag is gone. Other names of a flag must set
it; flags that cannot apply must say so; all arguments of the references' trainers must be known.
"""

import argparse
import pathlib
import re
import sys
import tempfile
import tomllib

sys.path.insert(0, str(pathlib.Path(__file__).parent / "flags"))

import file_flags  # noqa: E402
import other_flags  # noqa: E402
import references  # noqa: E402
import train_flags  # noqa: E402
from toy import Toy  # noqa: E402

OTHER = "Other names, which the reference programs have:"
IGNORED = "Accepted for the reference programs' sake, without effect:"


def parts(text):
    """The flags of a --help text: own, {other name: own}, without effect."""
    text, _, ignored = text.partition(IGNORED)
    text, _, other = text.partition(OTHER)
    own = set(re.findall(r"^\s+--([A-Za-z0-9_]+)", text, re.MULTILINE)) - {"help", "config"}
    other = dict(re.findall(r"^  --([A-Za-z0-9_]+): --([A-Za-z0-9_]+)$", other, re.MULTILINE))
    return own, other, set(re.findall(r"^  --([A-Za-z0-9_]+): ", ignored, re.MULTILINE))


def check_commands(toy, tables):
    listed = set(re.findall(r"^  ([a-z]+)  ", toy.help(), re.MULTILINE))
    return [f"{command} has no table of flags in tests/cli/flags" for command in sorted(listed - set(tables))] + [
        f"{command} has a table and is no command" for command in sorted(set(tables) - listed)]


def check_tables(toy, command, table):
    own, _, _ = parts(toy.help(command))
    assert own, f"no flags in tessera {command} --help"
    missing, gone = sorted(own - set(table)), sorted(set(table) - own)
    failed = [f"{command} --{name}: no check of its effect in tests/cli/flags" for name in missing]
    failed += [f"{command} --{name}: has a check and is no flag" for name in gone]
    for name in sorted(own & set(table)):
        check = table[name]
        if check.names() is not None and name not in check.names():
            failed.append(f"{command} --{name}: its check does not use it")
            continue
        try:
            check(toy)
        except AssertionError as error:
            failed.append(f"{command} --{name}: {error}")
    print(f"{command}: {len(own)} flags, {len(failed)} without a shown effect")
    return failed


def check_other_names(toy):
    _, other, _ = parts(toy.help("train"))
    values = train_flags.OTHER_NAMES
    if set(other) != set(values):
        return [f"other names {sorted(set(other) ^ set(values))} are in --help or in the table alone"]
    flags = [word for name, value in values.items() for word in ("--" + name, value)]
    run = toy.run("train", "lisa", flags)
    plain = tomllib.loads((toy.run("train", "lisa", []).folder / "config.toml").read_text())
    config = tomllib.loads((run.folder / "config.toml").read_text())
    failed = []
    for name, of in other.items():
        wanted = {"eval_strategy": "no_eval", "evaluation_strategy": "no_eval"}.get(name, of)
        if config.get(wanted) == plain.get(wanted):
            failed.append(f"--{name} does not set --{of}")
    return failed


def check_ignored(toy):
    _, _, ignored = parts(toy.help("train"))
    run = toy.run("train", "lisa", [word for name in sorted(ignored) for word in ("--" + name, "other")])
    return [f"--{name} is swallowed without a word" for name in sorted(ignored)
            if f"--{name} has no effect here: " not in run.output]


def check_asking_for_nothing(toy):
    """What a command line of the references has only to say that it wants nothing, or what is done in any case."""
    nothing = {"fsdp": "", "push_to_hub": "False", "report_to": "none", "hub_token": "None", "torch_compile": "no",
               "do_train": "True", "lazy_preprocess": "True", "save_safetensors": "True", "explanatory": "0.1",
               "remove_unused_columns": "False", "mm_use_im_patch_token": "False", "local_rank": "0"}
    run = toy.run("train", "lisa", [word for pair in nothing.items() for word in ("--" + pair[0], pair[1])])
    return [f"--{name} '{value}' asks for nothing and is warned of" for name, value in nothing.items()
            if f"--{name} has no effect" in run.output]


def check_references(toy):
    known = set().union(*parts(toy.help("train")))
    programs = {"LISA": references.LISA, "LLaVA": references.LLAVA, "transformers": references.TRANSFORMERS}
    return [f"{program}'s --{name} is unknown" for program, names in programs.items() for name in names
            if name.replace("-", "_") not in known]


def main(only, but):
    with tempfile.TemporaryDirectory() as folder:
        toy = Toy(pathlib.Path(folder))
        file_flags.lay_out(toy)
        tables = {"train": train_flags.FLAGS} | other_flags.COMMANDS | file_flags.COMMANDS
        failed = check_commands(toy, tables)
        for command, table in tables.items():
            if command != but and only in (None, command):
                failed += check_tables(toy, command, table)
        if but != "train":
            failed += check_other_names(toy) + check_ignored(toy) + check_references(toy)
            failed += check_asking_for_nothing(toy)
    for line in failed:
        print(line)
    return 1 if failed else 0


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--only", metavar="COMMAND", help="the flags of this command")
parser.add_argument("--but", metavar="COMMAND", help="those of all others")
sys.exit(main(**vars(parser.parse_args())))
