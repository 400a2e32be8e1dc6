"""`import ssl` is the standard library's module, whole and working, whatever lies beside it in our package."""
import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"__path__"}  # a package has a path; nothing else comes on top


def python(code: str, *flags: str, cwd: Path = ROOT) -> str:
    done = subprocess.run([sys.executable, *flags, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(*flags: str) -> set[str]:
    return set(json.loads(python("import ssl, json; print(json.dumps(dir(ssl)))", *flags)))


def test_every_name_of_the_isolated_standard_module_is_there_and_no_other():
    assert names() == names("-I") | OURS


def test_everyone_shares_the_one_module_and_its_classes():
    found = python(
        "import ssl, socket, pickle, urllib.request, asyncio.sslproto\n"
        "assert issubclass(ssl.SSLError, OSError)\n"
        "assert urllib.request.ssl is ssl and asyncio.sslproto.ssl is ssl\n"
        "assert pickle.loads(pickle.dumps(ssl.TLSVersion.TLSv1_3)) is ssl.TLSVersion.TLSv1_3\n"
        "print(ssl.__spec__.origin)"
    )
    assert Path(found.strip()) == ROOT / "ssl" / "__init__.py"


def test_importing_it_loads_no_torch_and_no_submodule():
    loaded = json.loads(python("import sys, ssl, json; print(json.dumps(sorted(sys.modules)))"))
    assert not [name for name in loaded if name.startswith("ssl.")]
    assert not {"torch", "numpy", "hydra", "core", "vision"} & set(loaded)


def test_no_submodule_takes_a_standard_name():
    submodules = {p.stem for p in (ROOT / "ssl").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert {"pretrain", "losses", "method"} <= submodules
    assert not submodules & names("-I")


def test_submodules_import():
    import ssl.losses
    import ssl.method.simclr

    assert ssl.create_default_context()
    assert Path(ssl.losses.__file__).parent == ROOT / "ssl"


@pytest.mark.long
def test_submodules_import_where_pytest_was_started_with_the_standard_module_loaded():
    """Plain `pytest`: a plugin may have imported ssl before our root is on the path."""
    code = (
        "import sys; sys.path.remove('')\n"
        "import ssl; assert not hasattr(ssl, '__path__')\n"
        "import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', sys.argv[1]]))"
    )
    words = [sys.executable, "-c", code, f"{__file__}::test_submodules_import"]
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("makes its own certificate with the openssl command, which is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *[openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"],
            *["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def test_a_tls_handshake_over_loopback(certificate):
    """By asyncio, over this very package: a verified certificate, data both ways, a stranger refused."""
    import ssl

    assert ssl.__path__  # it is our package that shakes hands
    cert, key = certificate

    async def talk() -> tuple[bytes, str]:
        serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        serving.load_cert_chain(cert, key)

        async def echo(reader, writer):
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=serving)
        port = server.sockets[0].getsockname()[1]
        trusting, strange = ssl.create_default_context(cafile=str(cert)), ssl.create_default_context()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="localhost")
        writer.write(b"hello\n")
        answer, version = await reader.readline(), writer.get_extra_info("ssl_object").version()
        writer.close()
        with pytest.raises(ssl.SSLCertVerificationError):  # self-signed, and nobody vouches for it
            await asyncio.open_connection("127.0.0.1", port, ssl=strange, server_hostname="localhost")
        server.close()
        return answer, version

    answer, version = asyncio.run(asyncio.wait_for(talk(), 30))
    assert answer == b"HELLO\n"
    assert version in ("TLSv1.2", "TLSv1.3")
