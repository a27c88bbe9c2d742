"""The protocols of tasks: what scoring calls of a task is in them, and both tasks have all of it."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from transformers import BertConfig, LlamaConfig, PreTrainedConfig, T5Config, ViTConfig

import hf_dlc
from hf_dlc.tasks.base import Embedder, Fittable, Storable, Task, Trainable
from hf_dlc.tasks.table import TASKS, kind_for
from hf_dlc.tasks.text.task import CausalLMTask
from hf_dlc.tasks.vision.task import ImageClassificationTask


HOME = Path(hf_dlc.__file__).parent

# What a task is called where it is used: `task`, `self.task`, `engine.task`, `scorer.parts.task` and the like.
NAMES = {"task", "_task"}


def members(protocol: type) -> set[str]:
    """Names that a protocol asks for."""
    return {name for name in {*protocol.__annotations__, *vars(protocol)} if not name.startswith("_")}


def used(code: str, names: Collection[str] = NAMES) -> Iterator[str]:
    """Names of what code takes of a task, or of what is called one of `names`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", None)
            if name in names:
                yield node.attr


KNOWN = members(Task) | members(Fittable) | members(Embedder)


@pytest.mark.parametrize("room", ["scorer", "execution"])
def test_nothing_else_is_called(room: str) -> None:
    files = sorted((HOME / room).glob("*.py"))
    found = {name: path.name for path in files for name in used(path.read_text(encoding="utf-8"))}
    assert found  # else nothing was looked at
    assert {name: file for name, file in found.items() if name not in KNOWN} == {}


def test_what_the_protocols_lack_is_noticed() -> None:
    assert set(used("self.task.forward(rows); task.head; engine.task.pooling = 1")) - KNOWN == {"head", "pooling"}


@pytest.mark.parametrize("task", [CausalLMTask, ImageClassificationTask])
def test_tasks_have_all_members(task: type) -> None:
    of_instances = {"reading", "rules"}  # set when one is made
    assert members(Task) - set(dir(task)) <= of_instances


@pytest.mark.parametrize("task", [CausalLMTask, ImageClassificationTask])
def test_training_asks_for_what_all_tasks_have(task: type) -> None:
    assert members(Trainable) - set(dir(task)) <= {"model"}  # set when one is made
    asked = set(used((HOME / "execution" / "training.py").read_text(encoding="utf-8"), {"trainable"}))
    assert asked == members(Trainable)


def test_files_ask_a_task_for_what_it_has_to_be_kept_in_them() -> None:
    assert members(Storable) <= {*dir(CausalLMTask), "reading"}
    assert not isinstance(ImageClassificationTask, Storable)  # images stay where they are
    files = HOME / "execution" / "encoded_files.py", HOME / "scorer" / "rows.py"
    asked = {name for path in files for name in used(path.read_text(encoding="utf-8"), {"storable"})}
    assert asked == members(Storable)


def test_only_the_image_task_learns_and_embeds() -> None:
    assert members(Fittable) | members(Embedder) <= set(dir(ImageClassificationTask))
    assert not (members(Fittable) | members(Embedder)) & set(dir(CausalLMTask))


def test_features_are_asked_of_an_embedder_alone() -> None:
    """No other member is needed of the task that makes features, nor is one of these called on any task."""
    assert set(used((HOME / "scorer" / "fitting.py").read_text(encoding="utf-8"), {"embedder"})) == members(Embedder)
    for path in [*(HOME / "scorer").glob("*.py"), *(HOME / "execution").glob("*.py")]:
        of_tasks = set(used(path.read_text(encoding="utf-8"), {"task"}))  # `_task` is that of a fit, which can learn
        assert not of_tasks & (members(Embedder) | members(Fittable)), path.name


def test_no_member_is_there_that_nobody_calls() -> None:
    files = [*(HOME / "scorer").glob("*.py"), *(HOME / "execution").glob("*.py"), *(HOME / "tasks").rglob("*.py")]
    called = {name for path in files for name in used(path.read_text(encoding="utf-8"), {*NAMES, "embedder"})}
    of_later = {"views"}  # for scores that show the model a part of a row
    assert KNOWN - called - of_later == set()


@pytest.mark.parametrize(
    ("config", "architectures", "kind"),
    [
        (LlamaConfig(), ["LlamaForCausalLM"], "causal-lm"),
        (ViTConfig(), ["ViTForImageClassification"], "image-classification"),
        (ViTConfig(), [], "image-classification"),
        (T5Config(), ["T5ForConditionalGeneration"], "causal-lm"),  # which refuses it
        (BertConfig(), [], "causal-lm"),
    ],
)
def test_the_table_tells_the_kind_of_a_model(config: PreTrainedConfig, architectures: list[str], kind: str) -> None:
    assert kind_for(config, architectures) is TASKS[kind]
