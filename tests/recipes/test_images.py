"""From a folder of images to subsets of each class, and to the accuracy of what is trained on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from PIL import Image as Pillow
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from hf_dlc.cli.commands import main
from hf_dlc.pipeline.sources import read_dataset
from hf_dlc.study import image_study
from hf_dlc.study.image_checks import FIFTY
from hf_dlc.study.image_study import ImageStudy, ImageStudyArguments
from recipes import check_image_scores, finetune_images, prune_images
from tests.conftest import ROOT


SIZES = {"dots": 20, "lines": 12, "rare": 2}
LABELS = [label for label, size in enumerate(SIZES.values()) for _ in range(size)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train` and `validation`, a folder for each class, and an image that is cut short in the training part."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part in ("train", "validation"):
        for label, (name, size) in enumerate(SIZES.items()):
            (root / part / name).mkdir(parents=True)
            for i in range(size):
                pixels = rng.integers(0, 40, (24, 24, 3))
                pixels[:: 4 if label else 1, :: 1 if label == 1 else 4] += 60 * (label + 1)
                Pillow.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{i}.png")
    broken = root / "train" / "dots" / "0.png"
    broken.write_bytes(broken.read_bytes()[:100])
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    ViTModel(ViTConfig(**sizes, image_size=24, patch_size=8)).save_pretrained(path)
    ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def run_dir(folder: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "pruned"
    prune(folder, model, output, "--keep", "0.25")
    return output


def prune(folder: Path, model: Path, output: Path, *more: str) -> None:
    options = {"dataset": folder / "train", "model": model, "output_dir": output, "dtype": "float32"}
    options["config"] = ROOT / "recipes" / "configs" / "image_folder.yaml"
    prune_images.main([text for name, value in options.items() for text in (f"--{name}", str(value))] + list(more))


def test_every_class_gives_its_part(run_dir: Path) -> None:
    kept = load_from_disk(str(run_dir / "pruned"))
    manifest = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["status"] == {"ok": 33, "invalid_image": 1}
    assert len(kept) == len(manifest["kept_indices"]) == round(34 * 0.25)
    assert np.bincount(kept["label"][:], minlength=3).min() == 1  # the rare one, of which a quarter is half an image
    assert "invalid_image" in (run_dir / "summary.md").read_text(encoding="utf-8")
    assert kept[0]["image"].size == (24, 24)


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "a"), ("", "")], ids=["classes", "one class", "no class"])
def test_images_like_wanted_ones(folder: Path, model: Path, tmp_path: Path, classes: tuple[str, str]) -> None:
    """Wanted images have classes of their own, or none: nothing but the pictures is compared."""
    names = [folder / "train" / "lines" / name for name in ("3.png", "7.png")]
    for unseen, name in zip(classes, names, strict=True):
        (tmp_path / "wanted" / unseen).mkdir(parents=True, exist_ok=True)
        shutil.copy(name, tmp_path / "wanted" / unseen)
    options = ["--selector", "target", "--target", str(tmp_path / "wanted"), "--keep", "6"]
    prune(folder, model, tmp_path / "run", *options, "--contamination", "keep")
    kept = load_from_disk(str(tmp_path / "run" / "pruned"))
    near = [place for place, found in enumerate(kept["dlc_wanted_similarity"][:]) if found > 0.999]
    pixels = [np.asarray(kept[place]["image"]) for place in near]
    assert [kept[place]["dlc_wanted"] for place in near] == [0, 1]
    assert all(np.array_equal(one, Pillow.open(name)) for one, name in zip(pixels, names, strict=True))
    main(["select", "--run_dir", str(tmp_path / "run"), *options, "--overwrite"])
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["left_out"] == {
        "no_score": 1,
        "equals_wanted": 2,
    }  # the same pictures, in the pool and among the wanted


def test_wanted_images_that_cannot_be_read(folder: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "wanted").mkdir()
    (tmp_path / "wanted" / "a.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match="none of the 1 images can be read, so that there are no features"):
        prune(folder, model, tmp_path / "run", "--selector", "target", "--target", str(tmp_path / "wanted"))
    assert not (tmp_path / "run" / "scores.parquet").exists()


def test_classes_like_those_of_wanted_images(run_dir: Path, folder: Path, model: Path, tmp_path: Path) -> None:
    """By their features, or by labels that stand for what a classifier of the pool's classes has predicted."""
    for name, label in (("lines", "dots"), ("lines", "dots"), ("dots", "lines"), ("rare", "rare")):
        (tmp_path / "wanted" / label).mkdir(parents=True, exist_ok=True)
        place = len(list((tmp_path / "wanted" / label).iterdir())) + 1
        shutil.copy(
            folder / "train" / name / f"{place % SIZES[name]}.png", tmp_path / "wanted" / label / f"{place}.png"
        )
    options = ["--selector", "transfer", "--groups_from", "label", "--keep", "8", "--target", str(tmp_path / "wanted")]
    options = ["select", "--output_dir", str(tmp_path / "kept"), *options, "--min_per_group", "0", "--overwrite"]
    with pytest.raises(SystemExit, match="Column 'dlc_features' not found"):
        main([*options, "--run_dir", str(run_dir)])
    prune(folder, model, tmp_path / "run", "--features", "auto", "--keep", "8")
    for mapping, expected in (("features", "lines"), ("labels", "dots")):
        main([*options, "--mapping", mapping, "--run_dir", str(tmp_path / "run")])
        kept = load_from_disk(str(tmp_path / "kept" / "pruned"))
        assert set(map(kept.features["label"].int2str, kept["label"][:])) == {expected}, mapping


def test_fewer_images_than_classes_are_refused(folder: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="asks for 2 rows, but 1 of each of 3 groups are 3"):
        prune(folder, model, tmp_path / "run", "--keep", "2")


def test_a_split_in_the_folder_and_a_class_of_its_name(tmp_path: Path) -> None:
    for name in ("train/test/a.png", "train/other/b.png", "validation/test/c.png", "validation/other/d.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Pillow.new("RGB", (8, 8)).save(tmp_path / name)
    for split in ("train", "validation"):
        options = prune_images.ImageRecipeArguments(dataset=str(tmp_path), split=split)
        images = read_dataset(options)
        assert images.features["label"].names == ["other", "test"]
        assert sorted(images["label"][:]) == [0, 1]


def test_a_class_of_the_name_of_the_split(tmp_path: Path) -> None:
    for name in ("train/a.png", "bus/b.png"):
        (tmp_path / name).parent.mkdir()
        Pillow.new("RGB", (8, 8)).save(tmp_path / name)
    images = read_dataset(prune_images.ImageRecipeArguments(dataset=str(tmp_path)))
    assert images.features["label"].names == ["bus", "train"]


def test_some_of_the_images_are_of_all_classes(folder: Path) -> None:
    options = prune_images.ImageRecipeArguments(dataset=str(folder / "train"), max_rows=17)
    labels = read_dataset(options)["label"][:]
    assert len(labels) == 17
    assert labels == sorted(labels)  # in the order of the dataset
    assert len(set(labels)) > 1


def test_checks_of_scores(folder: Path, model: Path, tmp_path: Path) -> None:
    options = {"dataset": folder / "validation", "model": model, "dtype": "float32", "output_dir": tmp_path}
    options |= {"rounds": "1", "few_levels": "0, 0.2; 0, 0.3, 0.6", "masking": "magnitude", "flipped": "0.2"}
    check_image_scores.main([text for name, value in options.items() for text in (f"--{name}", str(value))])
    found = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    [speed] = found["speed"]
    assert speed["images"] == 34
    assert speed["of the bare pass"] > 0
    assert speed["estimate / run"] > 0
    assert [row["schedule"] for row in found["levels"]] == ["0 (plain loss)", "0, 0.2", "0, 0.3, 0.6"]
    assert all(0 < row[fifty] <= 1 for row in found["levels"][1:] for fifty in FIFTY)
    assert all(0 <= row["AUROC within classes"] <= 1 for row in found["noise"])
    plain = found["noise"][0]
    assert plain["score"] == "plain loss (level 0)"
    assert plain["AUROC within classes"] > 0.6  # the classes are easy to tell, and so are wrong labels
    assert "| plain loss (level 0) |" in (tmp_path / "check.md").read_text(encoding="utf-8")


def finetune(run_dir: Path, folder: Path, output: Path, *more: str) -> dict[str, float]:
    options = ["--run_dir", str(run_dir), "--eval_dataset", str(folder / "validation"), "--output_dir", str(output)]
    finetune_images.main([*options, "--keeps", "0.3,0.5", "--seeds", "2", *more])
    return json.loads((output / "results.json").read_text(encoding="utf-8"))["accuracy"]


@pytest.mark.slow
def test_subsets_are_compared(run_dir: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = finetune(run_dir, folder, tmp_path)
    arms = {"random", "flexrand", "easiest", "hardest", "cut"}
    cells = {f"{arm} {keep} {seed}" for arm in arms for keep in (0.3, 0.5) for seed in (0, 1)}
    assert found.keys() == cells | {"full 1 0", "full 1 1"}
    assert found["full 1 0"] > 0.8  # the classes are easy to tell
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == table + "\n"  # and not the losses of every cell
    [row] = [line for line in table.splitlines() if line.startswith("| flexrand")]
    values = [100 * found[f"flexrand 0.3 {seed}"] for seed in (0, 1)]
    assert Pillow.open(tmp_path / "accuracy.png").size == (1050, 675)
    error = np.std(values, ddof=1) / 2**0.5
    assert row.split("|")[2].strip() == f"{np.mean(values):.2f} ± {error:.2f}"


def test_another_split_is_another_subset(run_dir: Path, folder: Path) -> None:
    study = ImageStudy(ImageStudyArguments(run_dir=str(run_dir), eval_dataset=str(folder / "validation")))
    arms = ("flexrand", "flexrand@0.5", "flexrand@0.1", "flexrand@.9")
    own, half, low, high = (study.choose_rows(arm, 0.5, 0).tolist() for arm in arms)
    assert own == half
    assert len({tuple(own), tuple(low), tuple(high)}) == 3
    assert len(own) == len(low) == len(high)


def test_goes_on_and_refuses_other_settings(
    run_dir: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    monkeypatch.setattr(image_study, "train_classifier", lambda *_: trained.append(1) or 0.5)
    finetune(run_dir, folder, tmp_path)
    count = len(trained)
    path = tmp_path / "results.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    del known["accuracy"]["random 0.3 1"]
    path.write_text(json.dumps(known), encoding="utf-8")
    finetune(run_dir, folder, tmp_path)
    assert len(trained) == count + 1
    shutil.copytree(folder / "validation", tmp_path / "others")
    for other in (["--epochs", "1"], ["--eval_dataset", str(tmp_path / "others")]):
        with pytest.raises(SystemExit, match="other settings"):
            finetune(run_dir, folder, tmp_path, *other)


@pytest.mark.slow
def test_the_whole_model_can_be_trained(run_dir: Path, folder: Path, tmp_path: Path) -> None:
    options = ["--frozen", "false", "--epochs", "6", "--batch_size", "8", "--arms", "full,random"]
    found = finetune(run_dir, folder, tmp_path, *options)
    assert len(found) == 2 + 4
    assert found["full 1 0"] > 0.7  # of classes of which the largest has 59%: it has learned


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--arms", "full,best"], "got best"),
        (["--arms", "flexrand@2,easiest@0.5"], "got flexrand@2, easiest@0.5"),
        (["--eval_dataset", ""], "held-out"),
    ],
)
def test_wrong_options(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        finetune_images.main(["--eval_dataset", "somewhere", *options])
    assert says in capsys.readouterr().err
