"""A size is a number or height and width, on the command line, in recipes and in settings files; equal sides are one number."""
import pytest

from core import cli, settings_file
from core.identity import identity
from core.image_size import parse, size_text
from ssl.pretrain import TOOL


def composed(*overrides: str):
    return cli.compose(TOOL, ["method=simclr", "data=digits", *overrides])


@pytest.mark.parametrize(("given", "size"), [
    (96, 96), ("96", 96), ("96x128", (96, 128)), ([96, 128], (96, 128)), ((128, 96), (128, 96)), ([96, 96], 96), ("7x7", 7),
    ([5], 5), ("96×128", (96, 128)),
])  # fmt: skip
def test_sizes(given, size):
    assert parse(given) == size


@pytest.mark.parametrize(("given", "why"), [
    ("abc", "96x128"), ("x", "pixels a side"), ([1, 2, 3], "height and width"), ([], "height and width"),
    (True, "pixels a side"), (96.5, "pixels a side"), (None, "pixels a side"), ([96, "a"], "pixels a side"), ("96x", "pixels"),
    (0, "more than 0"), ([96, 0], "more than 0"), (-3, "more than 0"),
])  # fmt: skip
def test_other_values_are_refused_by_name(given, why):
    with pytest.raises(ValueError, match=f"^image_size=.*{why}") as caught:
        parse(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["image_size=48x64", "image_size=[48,64]"])
def test_of_a_command_line(text, tmp_path):
    found = composed(text)
    assert found.image_size == (48, 64)
    assert cli.explicit(found)["image_size"]
    assert settings_file.load(TOOL, settings_file.save(found, tmp_path / "settings.json")[1]).image_size == (48, 64)
    assert identity(found)["image_size"] == [48, 64]
    again = cli.derive(TOOL, found, changes={"seed": 3})
    assert (again.image_size, again.seed) == ((48, 64), 3)
    assert cli.derive(TOOL, found, changes={"image_size": (32, 16)}).image_size == (32, 16)
    parsed, _ = cli.parse(["--image_size", text.partition("=")[2]])
    assert composed(*parsed).image_size == (48, 64)


def test_of_a_recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("image_size: [48, 64]\nimage_fit: letterbox\n")
    overrides, file = cli.with_recipe(TOOL, [f"recipe={path}"])
    found = cli.compose(TOOL, ["method=simclr", "data=digits", *[o for o in overrides if o != "recipe='null'"]], file)
    assert (found.image_size, found.image_fit) == ((48, 64), "letterbox")


def test_squares_and_the_usual_fit_are_the_runs_that_they_were():
    plain = identity(composed("image_size=32"))
    assert plain["image_size"] == 32
    assert "image_fit" not in plain
    for same in ("image_size=[32,32]", "image_size=32x32", "image_size='32'"):
        assert identity(composed(same)) == plain
    assert identity(composed("image_size=32", "image_fit=squash")) == plain | {"image_fit": "squash"}


@pytest.mark.parametrize(("text", "why"), [
    ("image_size=abc", "image_size=abc: must be pixels a side, such as 96, or height and width"),
    ("image_size=0", "image_size=0: must be more than 0"), ("image_size=[96,9999]", "image_size=.*8,192"),
    ("image_fit=pad", "image_fit=pad: must be auto or crop or squash or letterbox"),
])  # fmt: skip
def test_mistakes_are_one_line(text, why):
    from core.settings import check_allowed

    with pytest.raises(ValueError, match=why):
        check_allowed(composed(text))


def test_text():
    assert (size_text(96), size_text((96, 128))) == ("96", "96×128")
