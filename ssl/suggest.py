"""The commands that a report suggests next. They repeat every setting that this run was given."""
import re
import shlex

from core import config
from core.words import PretrainWords

LENGTH = ("epochs", "steps", "until")  # of a run, and where it pauses
OF_DATA = ("data", "image_size")


def train_on(words) -> str:
    """Train for twice as long, in another folder; after digits, try Fashion-MNIST."""
    if words.chosen.data == "digits":
        return _train(words, LENGTH + OF_DATA, ["data=fashion_mnist"], "fashion_mnist")
    length = f"steps={2 * words.steps}" if words.steps else f"epochs={2 * words.epochs:g}"
    return _train(words, LENGTH, [length], length.replace("=", "-"))


def evaluate(words, encoder) -> str:
    """Evaluate the encoder on the same data with the same split."""
    given = [word for word in words.chosen.words if _name(word).startswith("data.") or _name(word) == "seed"]
    arguments = [f"--encoder {shlex.quote(str(encoder))} --data {words.chosen.data}", *map(argument, given)]
    return " ".join(["uv run python -m linear_eval.evaluate", *arguments])


def argument(word: str) -> str:
    """A setting as `config.overrides` gave it → text for a shell that gives the very same again."""
    name, _, value = word.partition("=")
    for text in (_unquoted(value), value):
        pair = [f"{name}={text}"] if name[0] in "+~" or not text or text.startswith("--") else [f"--{name}", text]
        if config.overrides(pair, PretrainWords)[0] == [word]:
            return shlex.join(pair)
    return shlex.quote(word)


def _train(words, drop: tuple[str, ...], changed: list[str], suffix: str) -> str:
    """The command of this run without the settings called `drop`, or beneath them, and with others."""
    given = [w for w in words.chosen.words if _name(w).split(".")[0] not in (*drop, "out")]
    names = {_name(word) for word in (*given, *changed)}
    usual = [f"{group}={words.chosen[group]}" for group in ("method", "data") if group not in names]
    out = [] if words.out == "auto" else [f"--out {shlex.quote(f'{words.out}-{suffix}')}"]
    module = "nas.supernet" if "space" in words else "ssl.pretrain"
    return " ".join([f"uv run python -m {module}", *map(argument, [*usual, *given, *changed]), *out])


def _name(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _unquoted(value: str) -> str:
    """The text in Hydra's single quotes, or the value itself: backslashes count only before a quote and at the end."""
    if len(value) < 2 or value[0] + value[-1] != "''":
        return value
    text = re.sub(r"(\\*)\\'", lambda m: m[1][: len(m[1]) // 2] + "'", value[1:-1])
    return re.sub(r"\\+$", lambda m: m[0][: len(m[0]) // 2], text)
