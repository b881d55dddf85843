"""Files of weights: what is stored comes back, and nothing in a file is ever run."""

import argparse
import io
import json
import pickle
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from repre_jax.convert.files import is_foreign, read_tensors, run_name
from repre_jax.errors import UserError

STORED = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones(2, ml_dtypes.bfloat16),
}


class Malicious:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as told:
        read_tensors(path)
    return str(told.value)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(np.float32(found[name]), np.float32(value))


def test_safetensors(tmp_path):
    save_file(STORED, tmp_path / "x.safetensors")
    found, config, preprocessor = read_tensors(tmp_path / "x.safetensors")
    assert_same(found, STORED)
    assert (config, preprocessor) == ({}, {})


def test_npz(tmp_path):
    stored = {"params/a/kernel": STORED["a.weight"]}
    np.savez(tmp_path / "x.npz", **stored)
    assert_same(read_tensors(tmp_path / "x.npz")[0], stored)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_folder_brings_its_configs(tmp_path, parts):
    files = [f"model-{k}.safetensors" for k in range(parts)]
    if parts == 1:
        files = ["model.safetensors"]
    else:
        index = {"weight_map": dict(zip(STORED, files, strict=True))}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for k, file in enumerate(files):
        save_file(dict(list(STORED.items())[k :: len(files)]), tmp_path / file)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert is_foreign(tmp_path)
    found, config, preprocessor = read_tensors(tmp_path)
    assert_same(found, STORED)
    assert (config, preprocessor) == ({"model_type": "vit"}, {})
    (tmp_path / files[-1]).unlink()
    assert files[-1] in refused(tmp_path) or "has none of" in refused(tmp_path)


def test_a_file_of_a_folder_stands_for_the_folder(tmp_path):
    folder = tmp_path / "vit_small_patch16_224.dino"
    folder.mkdir()
    save_file(STORED, folder / "model.safetensors")
    assert run_name(folder / "model.safetensors") == "model"
    (folder / "config.json").write_text('{"model_type": "vit"}')
    assert read_tensors(folder / "model.safetensors")[1] == {"model_type": "vit"}
    for path in (folder, folder / "model.safetensors"):
        assert run_name(path) == "vit_small_patch16_224.dino"


def test_a_run_is_called_as_the_file_without_its_suffixes(tmp_path):
    (tmp_path / "linear-vit-s-300ep.pth.tar").write_bytes(b"")
    assert run_name(tmp_path / "linear-vit-s-300ep.pth.tar") == "linear-vit-s-300ep"


def test_a_pickle_in_an_npz_is_not_run(tmp_path):
    ran = tmp_path / "ran"
    np.savez(tmp_path / "x.npz", a=np.array([Malicious(ran)], dtype=object))
    assert "is damaged, or not what its name says (Object arrays" in refused(tmp_path / "x.npz")
    assert not ran.exists()


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_truncated_files_are_told(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    if suffix == "npz":
        np.savez(path, a=np.ones(1000))
    else:
        save_file(STORED, path)
    path.write_bytes(path.read_bytes()[:-9])
    assert "is damaged" in refused(path)
    path.write_bytes(b"")
    assert "is damaged" in refused(path)


def test_what_is_no_file_of_weights(tmp_path):
    assert "does not exist" in refused(tmp_path / "x.pth")
    assert "has none of model.safetensors" in refused(tmp_path)
    (tmp_path / "x.txt").write_text("")
    assert "ends in none of .safetensors, .npz, .pth" in refused(tmp_path / "x.txt")
    assert not is_foreign(tmp_path) and not is_foreign(tmp_path / "x.txt")


def test_without_pytorch_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install 'repre_jax[torch]'" in refused(tmp_path / "x.pth")


def saved_by_torch(path: Path, value) -> Path:
    torch = pytest.importorskip("torch")
    torch.save(value, path)
    return path


def test_pytorch_tensors_come_under_dotted_names(tmp_path):
    torch = pytest.importorskip("torch")
    weight = torch.arange(6, dtype=torch.float16).reshape(2, 3)
    stored = {"model": {"a.weight": weight, "index": torch.ones(2, dtype=torch.int64)}}
    stored |= {"args": argparse.Namespace(lr=0.1), "epoch": 3, "optimizer": {"state": {0: [1]}}}
    found, _, _ = read_tensors(saved_by_torch(tmp_path / "x.pth", stored))
    assert_same(found, {"model.a.weight": weight.numpy(), "model.index": np.ones(2)})


def test_settings_of_yacs_are_read_as_a_dictionary(tmp_path, monkeypatch):
    """MoBY's checkpoints hold them, and yacs is not installed here."""
    torch = pytest.importorskip("torch")
    module = type(sys)("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    monkeypatch.setitem(sys.modules, "yacs", type(sys)("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    node = module.CfgNode({"EPOCHS": 300})
    node.__dict__["frozen"] = True
    saved_by_torch(tmp_path / "x.pth", {"model": {"a": torch.ones(2)}, "config": node})
    for name in ("yacs", "yacs.config"):
        monkeypatch.delitem(sys.modules, name)
    assert_same(read_tensors(tmp_path / "x.pth")[0], {"model.a": np.ones(2)})


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    ran = tmp_path / "ran"
    path = saved_by_torch(tmp_path / "x.pth", {"a": torch.ones(2), "b": Malicious(ran)})
    assert "holds more than tensors" in refused(path)
    (tmp_path / "y.pth").write_bytes(pickle.dumps(Malicious(ran), protocol=2))
    assert "y.pth" in refused(tmp_path / "y.pth")
    assert not ran.exists()
    torch.load(path, weights_only=False)
    assert ran.exists(), "it would have run"


def test_a_truncated_file_of_pytorch_is_told(tmp_path):
    torch = pytest.importorskip("torch")
    path = saved_by_torch(tmp_path / "x.pth", {"a": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    assert "is damaged" in refused(path)
    old = io.BytesIO()
    torch.save({"a": torch.ones(1000)}, old, _use_new_zipfile_serialization=False)
    path.write_bytes(old.getvalue()[:500])
    assert "is damaged" in refused(path)
