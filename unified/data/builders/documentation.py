"""Shards of English text about programming: the docstrings and the language reference that Python itself ships."""

import ast
import inspect
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unified.core.seed import key
from unified.data.shards.write import ShardWriter, complete_folder, progress

SEED = "documentation 1"
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "__pycache__"}
TOPICS = "pydoc_data/topics.py"  # the language reference as a dict of pages
SENTENCES = 3  # at most, in one sample
CHARACTERS = (30, 400)
SHARES = {"validation": 0.05, "test": 0.05}  # of the modules; the rest is for training

_ROLE = re.compile(r":[a-z:]+:`~?([^`<]+?)(?:\s*<[^`]*>)?`")
_MARKS = re.compile(r"``?([^`]+?)``?|\*\*([^*]+)\*\*|(?<!\w)\*(\w[^*]*)\*(?!\w)|(?<!\w)_([A-Za-z][^_]*)_(?!\w)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_PROSE = re.compile(r"[A-Z][^\n]*[.!?]")
_NOT_PROSE = re.compile(r">>>|::|[=|+~^]{2}|\w+\([^)]*\) ->|[{}<>\\]|\.\. |@|http|\$|#|--|;$")
_PLAIN = str.maketrans("“”’‘`\u00a0", "\"\"''' ")
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")


def build_documentation(out: Path, samples_per_shard: int) -> dict[str, dict[str, Any]]:
    """Write the splits train, validation and test, apart by module; returns their manifests.

    The texts depend on the Python version alone.
    """
    passages = library_passages(Path(sysconfig.get_paths()["stdlib"]))
    splits: dict[str, list[tuple[str, str]]] = {"train": [], **{name: [] for name in SHARES}}
    for text, module in passages.items():
        splits[split_of(module)].append((text, module))
    manifests = {}
    source = f"Python {platform.python_version()} standard library"
    with complete_folder(out) as folder:
        for name, members in splits.items():
            writer = ShardWriter(
                folder / name, kind="documentation", source=source, samples_per_shard=samples_per_shard
            )
            with writer:
                for number, (text, module) in enumerate(sorted(members, key=lambda member: key(SEED, member[0]))):
                    writer.write(f"{number:06d}", {"txt": text, "json": {"module": module}}, "text")
                writer.manifest["modules"] = len({module for _, module in members})
                writer.manifest["words"] = sum(len(_WORD.findall(text)) for text, _ in members)
            manifests[name] = writer.manifest
    return manifests


def split_of(module: str) -> str:
    """The split of a module's text, by a keyed hash of its top-level name: packages stay together."""
    draw = key(SEED, module.split(":")[0] if ":" in module else module.split(".")[0]) / 2**64
    for name, share in SHARES.items():
        if draw < share:
            return name
        draw -= share
    return "train"


def library_passages(library: Path) -> dict[str, str]:
    """Every passage in the library's modules, each once, with the module that has it first."""
    files = sorted(path for path in library.rglob("*.py") if not SKIPPED & set(path.relative_to(library).parts))
    found: dict[str, str] = {}
    for path in progress(files, len(files), "reading the standard library"):
        name = path.relative_to(library)
        if name.as_posix() == TOPICS:
            pages = _topics(path)
        else:
            module = ".".join(name.with_suffix("").parts).removesuffix(".__init__")
            pages = ((module, text) for text in docstrings(path.read_bytes()))
        for module, text in pages:
            for passage in passages(text):
                found.setdefault(passage, module)
    return found


def docstrings(source: bytes) -> list[str]:
    """The docstrings in a module's source, read without importing it; none where it does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [text for node in ast.walk(tree) if isinstance(node, kinds) and (text := ast.get_docstring(node))]


def _topics(path: Path) -> Iterator[tuple[str, str]]:
    """The pages of the language reference, each named as a module of its own so that it may fall into any split."""
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for name, text in ast.literal_eval(node.value).items():
                yield f"topic {name}:", inspect.cleandoc(text)


def passages(text: str) -> Iterator[str]:
    """The prose of a page in runs of one to three sentences, without code, tables, lists of options and headings."""
    for paragraph in re.split(r"\n\s*\n", text):
        if re.match(r"[ \t]*(?:[-*•]|\d+\.|:\w)", paragraph):
            paragraph = re.sub(r"^[ \t]*(?:[-*•]|\d+\.)\s+", "", paragraph)
        prose = clean(paragraph)
        if not _PROSE.fullmatch(prose) or _NOT_PROSE.search(prose):
            continue
        yield from _runs(_SENTENCE_END.split(prose))


def _runs(sentences: list[str]) -> Iterator[str]:
    shortest, longest = CHARACTERS
    run: list[str] = []
    for sentence in [*sentences, None]:
        full = sentence is None or len(run) == SENTENCES or sum(map(len, run)) + len(run) + len(sentence) > longest
        if full and run:
            joined = " ".join(run)
            if shortest <= len(joined) <= longest and _reads_well(joined):
                yield joined
            run = []
        if sentence is not None:
            run.append(sentence)


def clean(paragraph: str) -> str:
    """One line of text without reStructuredText marks and with plain quotes."""
    line = " ".join(paragraph.split())
    line = _ROLE.sub(r"\1", line)
    line = _MARKS.sub(lambda found: next(group for group in found.groups() if group is not None), line)
    return line.translate(_PLAIN)


def _reads_well(text: str) -> bool:
    """Mostly words: at least five, and they make up three quarters of the characters."""
    words = _WORD.findall(text)
    letters = Counter(character.isascii() and (character.isalpha() or character == " ") for character in text)
    return len(words) >= 5 and letters[True] >= 0.85 * len(text)
