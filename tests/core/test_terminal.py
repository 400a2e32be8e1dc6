"""What becomes of the terminal, a pipe or a log's disk is never what becomes of the run."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from core import terminal
terminal.protect()
for i in range(300):
    print("out \\xd7 \\u20ac", i)
    print("err \\xd7 \\u20ac", i, file=sys.stderr, flush=i % 2 == 0)
sys.stdout.buffer.write(b"bytes" * 5000)
open(sys.argv[1], "w").write(f"reached the end, isatty {sys.stderr.isatty()}, fileno {sys.stdout.fileno()}")
sys.exit(7)
"""


def program(folder: Path, redirect: str = "", **environment: str) -> tuple[int, str, bytes, bytes]:
    """Runs it in a shell.  → (exit code, what it wrote to its file, stdout, stderr)"""
    command = f'"{sys.executable}" -c "$PROGRAM" "$FILE" {redirect}'
    variables = os.environ | {"PROGRAM": PROGRAM, "FILE": str(folder / "end")} | environment
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=variables, capture_output=True, check=False, timeout=60)
    end = folder / "end"
    return done.returncode, end.read_text() if end.exists() else "", done.stdout, done.stderr


GONE = {
    "full disk": ">/dev/full 2>/dev/full",
    "full disk, unbuffered": ">/dev/full 2>/dev/full",
    "closed": ">&- 2>&-",
    "stdout closed": ">&-",
    "stderr closed": "2>&-",
    "stdin closed": "<&- >/dev/null 2>&1",
}


@pytest.mark.parametrize("kind", GONE)
def test_output_that_cannot_be_written_ends_nothing_and_changes_no_exit_code(tmp_path, kind):
    variables = {"PYTHONUNBUFFERED": "1" if "unbuffered" in kind else ""}
    code, end, _, err = program(tmp_path, GONE[kind], **variables)
    assert (code, end[:15]) == (7, "reached the end")
    assert b"Traceback" not in err
    assert b"Exception ignored" not in err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_leaves_ends_nothing(tmp_path, stream):
    """As `… | head -1`, or a tee that died."""
    reading, writing = os.pipe()
    os.close(reading)
    others = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | {stream: writing}
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "end")], cwd=ROOT, check=False, timeout=60, **others)
    os.close(writing)
    assert done.returncode == 7
    assert (tmp_path / "end").read_text() == "reached the end, isatty False, fileno 1"
    assert stream == "stderr" or b"Error" not in done.stderr


@pytest.mark.parametrize("variables", [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
])
def test_characters_that_a_terminal_lacks_are_escaped(tmp_path, variables):
    code, end, out, err = program(tmp_path, **variables)
    assert (code, end[:15]) == (7, "reached the end")
    assert b"\\u20ac 299" in out
    assert b"\\u20ac 299" in err


def test_what_can_be_written_is_written_whole_and_in_order(tmp_path):
    code, _, out, err = program(tmp_path, PYTHONIOENCODING="utf-8")
    assert code == 7
    assert out.decode() == "".join(f"out × € {i}\n" for i in range(300)) + "bytes" * 5000
    assert err.decode() == "".join(f"err × € {i}\n" for i in range(300))


def test_a_file_is_not_opened_under_a_closed_streams_number(tmp_path):
    """A library that writes to descriptor 2 would write into it."""
    program_of_numbers = "from core import terminal; terminal.protect(); print(open('%s', 'w').fileno() > 2)"
    command = f'"{sys.executable}" -c "{program_of_numbers % (tmp_path / "file")}" 2>&-'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_notebooks_streams_are_left_alone(capsys):
    from core import terminal

    out, err = sys.stdout, sys.stderr
    terminal.protect()
    assert (sys.stdout, sys.stderr) == (out, err)
