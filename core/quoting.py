"""Values in Hydra's grammar of the command line, and back."""
import re

QUOTED = r"""'([^'\\]|\\.)*'|"([^"\\]|\\.)*\""""  # in quotes, with none inside but escaped ones


def quoted(name: str, value: str, text: bool, several: bool) -> str:
    """A value as Hydra's grammar takes it: text is quoted, numbers, lists and sweeps are left alone."""
    if re.fullmatch(QUOTED, value) or (several and re.search(r"[,(*]", value)):
        return value
    if not text and len(value) > 1 and value[0] + value[-1] in ("[]", "{}"):
        return value
    bare = r"(?!true$|false$|nan$|inf$)[a-z_][\w./-]*" if text else r"[\w./:+-]+"
    if re.fullmatch(bare, value, re.ASCII | re.IGNORECASE) and (name, value) != ("recipe", "null"):
        return value  # a group's choice cannot be null, but an optional group's may be one that is not there
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
    return f"'{escaped}'"


def unquoted(value: str) -> str:
    """The text in Hydra's single quotes, or the value itself: backslashes count only before a quote and at the end."""
    if len(value) < 2 or value[0] + value[-1] != "''":
        return value
    text = re.sub(r"(\\*)\\'", lambda m: m[1][: len(m[1]) // 2] + "'", value[1:-1])
    return re.sub(r"\\+$", lambda m: m[0][: len(m[0]) // 2], text)
