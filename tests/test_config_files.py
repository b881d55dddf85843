"""Configs by name and by path, inheriting from where they lie."""

import re
import shutil

import pytest
from whole_runs import ROOT

from repre_jax import config_files
from repre_jax.config_files import beside, carried, locate, read_config
from repre_jax.errors import UserError
from repre_jax.training.explain import flat_keys
from repre_jax.training.resolution import resolve
from repre_jax.training.sizes import choose_sizes

CONFIGS = ROOT / "configs"


def told() -> list[str]:
    """The configs, with their variants, of the commands in the READMEs and in the configs."""
    files = [ROOT / "README.md", *CONFIGS.rglob("*.md"), *CONFIGS.rglob("*.py")]
    text = "".join(path.read_text() for path in files)
    commands = re.findall(r"(?:configs/|`)([\w/]+)\.py(:[\w,=]*\w)?", text)
    return sorted({name + variants for name, variants in commands if name in carried()})


@pytest.mark.parametrize("name", told())
def test_every_config_that_is_told_of_can_be_read(name):
    config = read_config(name)
    if config.task == "pretrain":
        choose_sizes(config, images=1_281_167, devices=8, on_cpu=False)
        resolve(config, images=1_281_167, devices=8)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working directory that knows nothing of the checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_file_is_carried(elsewhere):
    assert set(carried().values()) == set(CONFIGS.rglob("*.py"))
    assert locate("eval/knn") == CONFIGS / "eval/knn.py"
    assert locate("dino_vits") == CONFIGS / "dino_vits.py"


def test_configs_inside_the_package_come_first(tmp_path, monkeypatch):
    """As in a wheel, where something else may lie beside it."""
    shutil.copytree(CONFIGS, tmp_path / "repre_jax/configs")
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(config_files, "_PACKAGE", tmp_path / "repre_jax")
    assert locate("byol_vits") == tmp_path / "repre_jax/configs/byol_vits.py"
    assert read_config("eval/table").task == "table"


def test_a_file_goes_before_a_carried_config(elsewhere):
    (elsewhere / "dino_vits").mkdir()  # no file
    assert locate("dino_vits") == CONFIGS / "dino_vits.py"
    (elsewhere / "own.py").write_text("def get_config(variants):\n    return variants\n")
    assert read_config("own.py:a,b=2") == "a,b=2"
    assert read_config("own.py") == ""


def test_what_is_no_config_gets_the_nearest(elsewhere):
    (elsewhere / "mine").mkdir()
    (elsewhere / "mine/large.py").touch()
    for name, nearest in {
        "mine/lagre.py": "mine/large.py",
        "dino_vit": "dino_vits",
        "configs/dino_vits.py": "dino_vits",
        "configs/eval/knn.py": "eval/knn",
        "knn": "eval/knn",
    }.items():
        with pytest.raises(UserError) as error:
            locate(name)
        assert str(error.value) == f"There is no config file {name}; did you mean {nearest}?"
    with pytest.raises(UserError, match=r"no config file zzz; --help lists those"):
        locate("zzz")


def test_inheriting_from_the_same_folder_else_from_the_package(elsewhere):
    text = (CONFIGS / "dino_vitb.py").read_text()
    own = elsewhere / "own.py"
    own.write_text(text)
    assert read_config("own.py").to_dict() == read_config("dino_vitb").to_dict()
    assert beside(str(own), "dino_vits").__file__ == str(CONFIGS / "dino_vits.py")
    (elsewhere / "dino_vits.py").touch()
    assert beside(str(own), "dino_vits").__file__ == str(elsewhere / "dino_vits.py")
    with pytest.raises(UserError, match="There is no config file dino_vit; did you mean"):
        beside(str(own), "dino_vit")


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        ("def get_config():\n    return (\n", "SyntaxError: '(' was never closed; ", 2),
        ("import json\n\njson.loads('{')\n", "JSONDecodeError: ", 3),
        (
            "from repre_jax.config_files import beside\n\ndef get_config():\n"
            '    config = beside(__file__, "dino_vits").get_config("")\n'
            "    config.optimzer.x = 1\n    return config\n",
            "AttributeError: ",
            5,
        ),
        ("def get_config():\n    return undefined\n", "NameError: ", 2),
    ],
)
def test_a_mistake_is_told_with_its_line_in_the_config(elsewhere, text, words, line):
    (elsewhere / "own.py").write_text(text)
    with pytest.raises(UserError) as error:
        read_config("own.py")
    told = str(error.value)
    assert f"own.py cannot be run as a config ({words}" in told
    assert told.endswith(f"{elsewhere / 'own.py'}, line {line}).")


def test_a_config_of_the_same_name_inherits_from_the_carried_one(elsewhere):
    (elsewhere / "moby_vits.py").write_text(
        "from repre_jax.config_files import beside\n\n"
        'get_config = beside(__file__, "moby_vits").get_config\n'
    )
    assert read_config("moby_vits.py:baseline").method.name == "moby"


def test_variants_of_a_config_without_any(elsewhere):
    (elsewhere / "own.py").write_text("def get_config():\n    return {}\n")
    assert read_config("own.py:") == {}
    with pytest.raises(UserError, match=r"^No variant 'sweep'; own\.py has none\.$"):
        read_config("own.py:sweep")


@pytest.mark.parametrize("name", [name for name in carried() if "/" in name])
def test_every_evaluation_can_be_small(name):
    """With the same keys, all inside their ranges."""
    usual, small = (flat_keys(read_config(name + variants)) for variants in ("", ":smoke"))
    assert usual.keys() == small.keys()
    with pytest.raises(UserError, match=r"^No variant 'smok'; this config has .*smoke"):
        read_config(f"{name}:smok")


def test_a_small_table_is_of_small_cells():
    table = read_config("eval/table:smoke")
    cells = ("few_label", "finetune", "health", "knn", "linear")
    for cell in (*cells, "dense_knn", "linear_segmentation", "propagation"):
        small = flat_keys(read_config(f"eval/{cell}:smoke"))
        small |= {"rate_factors": table.linear.rate_factors} if cell == "linear" else {}
        assert flat_keys(table[cell]).items() <= small.items()
