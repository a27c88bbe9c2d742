from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from hf_dlc.masking import LevelReport, Masker, MaskingSession, UnmaskableModelError
from hf_dlc.masking import levels as levels_module
from hf_dlc.masking import masker as masker_module
from hf_dlc.masking import session as session_module
from hf_dlc.masking.hashes import WeightMatrix
from hf_dlc.masking.masks import random_mask_


FRACTIONS = (0.0, 0.1, 0.3, 0.7)
FAMILIES = ["llama", "llama_tied", "gpt2", "mixtral", "qwen3_moe", "gpt_oss"]
KINDS = [("random", "module"), ("magnitude", "module"), ("magnitude", "global")]


def snapshot(model: nn.Module) -> dict[str, tuple]:
    """Everything that a session must leave as it was: bits, address, version and type of every parameter."""
    return {
        name: (
            parameter.detach().contiguous().view(torch.uint8).numpy().tobytes(),
            parameter.data_ptr(),
            parameter._version,
            parameter.dtype,
            parameter.shape,
            parameter.stride(),
            parameter.requires_grad,
        )
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def weights_of(masker: Masker) -> list[torch.Tensor]:
    return [target.parameter.detach().clone() for target in masker.targets]


def all_equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def levels_of(masker: Masker, fractions: tuple[float, ...] = FRACTIONS) -> list[list[torch.Tensor]]:
    with masker.session(fractions) as session:
        levels = []
        for level in range(len(fractions)):
            session.set_level(level)
            levels.append(weights_of(masker))
    return levels


def make_odd(model: nn.Module) -> nn.Module:
    """Negative zeros, zeros and a NaN with a payload in the first masked weights of every layer."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "embed" not in name:
                flat = parameter.view(-1)
                flat[:5] = torch.tensor([-0.0, 0.0, 1e-30, -0.0, 0.5])
                bits = flat.view(torch.int16 if flat.dtype.itemsize == 2 else torch.int32)
                bits[5] = torch.iinfo(bits.dtype).max - 5  # a NaN
    return model


class TestLevels:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize(("masking", "scope"), KINDS)
    def test_counts_are_those_of_the_tensors(
        self, make_model: Callable, family: str, masking: str, scope: str
    ) -> None:
        model = make_model(family)
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if "layers.0" in name or "h.0" in name).view(-1)[:7] = 0
        masker = Masker(model, masking, scope=scope)
        total = sum(target.parameter.numel() for target in masker.targets)
        before = sum(int((target.parameter == 0).sum()) for target in masker.targets)
        with masker.session(FRACTIONS) as session:
            for level, fraction in enumerate(FRACTIONS):
                report = session.set_level(level)
                zeros = sum(int((target.parameter == 0).sum()) for target in masker.targets)
                assert report == LevelReport(level, fraction, total, zeros - before, before)
                if masking == "magnitude" and level > 0:
                    sizes = self._sizes(masker) if scope == "module" else [total]
                    assert zeros == sum(round(fraction * size) for size in sizes)
        assert [report.level for report in masker.report] == [0, 1, 2, 3]
        assert masker.report[0].masked == 0
        assert masker.maskable == total

    @staticmethod
    def _sizes(masker: Masker) -> list[int]:
        return [
            target.parameter.numel() // target.matrices for target in masker.targets for _ in range(target.matrices)
        ]

    @pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe"])
    @pytest.mark.parametrize(("masking", "scope"), KINDS)
    def test_masks_are_nested_and_leave_other_weights_alone(
        self, make_model: Callable, family: str, masking: str, scope: str
    ) -> None:
        masker = Masker(make_model(family).bfloat16(), masking, scope=scope)
        levels = levels_of(masker)
        for smaller, larger in itertools.pairwise(levels):
            for one, other in zip(smaller, larger, strict=True):
                assert bool(((one != 0) | (other == 0)).all())
                assert torch.equal(other[other != 0], one[other != 0])

    def test_only_targets_are_masked(self, make_model: Callable) -> None:
        model = make_model("llama_tied")
        masker = Masker(model)
        before = snapshot(model)
        with masker.session(FRACTIONS) as session:
            session.set_level(3)
            changed = {name for name, value in snapshot(model).items() if value != before[name]}
        assert changed == {target.name for target in masker.targets}

    def test_each_expert_has_its_own_threshold(self, make_model: Callable) -> None:
        model = make_model("mixtral")
        experts = model.model.layers[0].mlp.experts.gate_up_proj
        experts.data[0] *= 100
        for scope, alike in (("module", True), ("global", False)):
            with Masker(model, "magnitude", scope=scope).session((0.0, 0.5)) as session:
                session.set_level(1)
                zeros = {int((expert == 0).sum()) for expert in experts}
                assert (zeros == {96 * 32 // 2}) is alike

    def test_any_order_of_levels(self, make_model: Callable) -> None:
        for masking in ("random", "magnitude"):
            masker = Masker(make_model("llama"), masking)
            levels = levels_of(masker)
            with masker.session(FRACTIONS) as session:
                for level in (2, 1, 3, 0, 0, 3, 2):
                    session.set_level(level)
                    assert all_equal(weights_of(masker), levels[level])
            assert [report.level for report in masker.report] == [0, 1, 2, 3]

    @pytest.mark.parametrize(("masking", "scope"), KINDS)
    def test_any_fraction(self, make_model: Callable, masking: str, scope: str) -> None:
        masker = Masker(make_model("llama"), masking, scope=scope)
        before = snapshot(masker.model)
        levels = levels_of(masker)
        with masker.session() as session:
            for level in (2, 1, 3, 0, 2):
                session.set_fraction(FRACTIONS[level])
                assert all_equal(weights_of(masker), levels[level])
        assert masker.report == []
        assert snapshot(masker.model) == before

    def test_zeros_before_are_those_of_the_unmasked_weights(self, make_model: Callable) -> None:
        with Masker(make_model("llama")).session(FRACTIONS) as session:
            session.set_fraction(0.5)
            assert session.set_level(1).zeros_before == 0

    def test_a_level_that_masks_nothing_stops(self, make_model: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        masker = Masker(make_model("llama"))
        monkeypatch.setattr(levels_module, "random_mask_", lambda *_: None)
        with masker.session(FRACTIONS) as session:
            session.set_level(0)
            with pytest.raises(RuntimeError, match="Level 1 should have set about 1843 weights to zero and set none"):
                session.set_level(1)

    def test_a_sparse_model_may_have_nothing_left_to_mask(self) -> None:
        model = nn.Linear(100, 100)
        model.weight.data[:50] = 0
        with Masker(model, "magnitude").session((0.0, 0.3)) as session:
            assert session.set_level(1) == LevelReport(1, 0.3, 10_000, 0, 5_000)


class TestReproducibility:
    @pytest.mark.parametrize("masking", ["random", "magnitude"])
    def test_wrappers_do_not_change_masks(self, make_model: Callable, masking: str) -> None:
        plain = levels_of(Masker(make_model("llama").bfloat16(), masking, seed=4))
        wrapped = nn.DataParallel(torch.compile(make_model("llama").bfloat16()))
        for one, other in zip(plain, levels_of(Masker(wrapped, masking, seed=4)), strict=True):
            assert all_equal(one, other)

    def test_seeds_and_layers_differ(self, make_model: Callable) -> None:
        (first,), (second,) = (levels_of(Masker(make_model("llama"), seed=seed), (0.5,)) for seed in (0, 1))
        assert not any(torch.equal(one == 0, other == 0) for one, other in zip(first, second, strict=True))
        assert not torch.equal(first[0] == 0, first[7] == 0)  # q_proj of both layers

    def test_experts_are_masked_as_one_parameter(self, make_model: Callable) -> None:
        model = make_model("qwen3_moe")
        name = "model.layers.0.mlp.experts.gate_up_proj"
        experts = model.get_parameter(name)
        expected = experts.detach().clone()
        random_mask_(WeightMatrix(expected, name), 0.3, seed=2)
        with Masker(model, seed=2).session((0.3,)) as session:
            session.set_level(0)
            assert torch.equal(experts, expected)
        assert not torch.equal(expected[0] == 0, expected[1] == 0)

    @pytest.mark.parametrize("masking", ["random", "magnitude"])
    def test_masks_are_the_same_in_another_process(self, masking: str) -> None:
        script = (
            "import hashlib, torch\n"
            "from hf_dlc.masking import Masker\n"
            "torch.set_num_threads(1)\n"
            "model = torch.nn.Sequential(*[torch.nn.Linear(300, 300) for _ in range(2)]).bfloat16()\n"
            "torch.nn.init.constant_(model[0].weight, -1.0), torch.nn.init.constant_(model[1].weight, 2.0)\n"
            f"with Masker(model, {masking!r}, seed=9).session((0.0, 0.2)) as session:\n"
            "    session.set_level(1)\n"
            "    bits = b''.join((layer.weight == 0).numpy().tobytes() for layer in model)\n"
            "print(hashlib.sha256(bits).hexdigest())\n"
        )
        here = subprocess.run([sys.executable, "-c", script], env=_environment("1"), capture_output=True, text=True)
        assert here.returncode == 0, here.stderr
        captured: list[str] = []
        exec(script, {"print": captured.append})
        assert here.stdout.strip() == captured[0]


def _environment(hash_seed: str) -> dict[str, str]:
    root = str(Path(masker_module.__file__).parents[2])
    return {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": root}


class TestRestore:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize(("masking", "scope"), KINDS)
    @pytest.mark.parametrize("held", [False, True])
    def test_every_bit_comes_back(
        self, make_model: Callable, family: str, masking: str, scope: str, held: bool
    ) -> None:
        model = make_odd(make_model(family).bfloat16())
        before = snapshot(model)
        masker = Masker(model, masking, scope=scope)
        if held:
            masker.hold_levels(FRACTIONS)
            assert snapshot(model) == before
        with masker.session(FRACTIONS) as session:
            for level in range(4):
                session.set_level(level)
            assert snapshot(model) != before
        assert snapshot(model) == before

    def test_the_zero_in_a_masked_place_is_positive(self, make_model: Callable) -> None:
        model = make_odd(make_model("llama"))
        with Masker(model, "magnitude").session((0.0, 0.5)) as session:
            session.set_level(1)
            weight = model.model.layers[0].self_attn.q_proj.weight.detach()
            assert not bool(torch.signbit(weight[weight == 0]).any())

    @pytest.mark.parametrize("held", [False, True])
    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    def test_after_an_exception(self, make_model: Callable, error: type[BaseException], held: bool) -> None:
        model = make_odd(make_model("llama"))
        before = snapshot(model)
        masker = Masker(model)
        if held:
            masker.hold_levels(FRACTIONS)
        with pytest.raises(error):
            self._fail_at_level_2(masker, error)
        assert snapshot(model) == before
        with masker.session(FRACTIONS) as session:  # and the model is free again
            session.set_level(1)
        assert snapshot(model) == before

    @staticmethod
    def _fail_at_level_2(masker: Masker, error: type[BaseException]) -> None:
        with masker.session(FRACTIONS) as session:
            session.set_level(2)
            raise error

    @pytest.mark.parametrize("masking", ["random", "magnitude"])
    def test_interrupted_while_masking(
        self, make_model: Callable, masking: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = make_model("llama")
        before = snapshot(model)
        masker = Masker(model, masking)
        levels = levels_of(masker)
        calls = self._interrupt_third_call(monkeypatch, f"{masking}_mask_")
        with masker.session(FRACTIONS) as session:
            with pytest.raises(KeyboardInterrupt):
                session.set_level(1)
            assert snapshot(model) != before
            assert len(calls) == 3
            session.set_level(1)  # masks what the interrupt left out
            assert all_equal(weights_of(masker), levels[1])
        assert snapshot(model) == before

    def test_interrupted_while_masking_and_given_up(
        self, make_model: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = make_model("llama")
        before = snapshot(model)
        self._interrupt_third_call(monkeypatch, "random_mask_")
        with pytest.raises(KeyboardInterrupt), Masker(model).session(FRACTIONS) as session:
            session.set_level(1)
        assert snapshot(model) == before

    @staticmethod
    def _interrupt_third_call(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
        mask, calls = getattr(levels_module, name), []

        def interrupted(*args: object) -> None:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            mask(*args)

        monkeypatch.setattr(levels_module, name, interrupted)
        return calls

    @pytest.mark.usefixtures("ctrl_c_raises")
    @pytest.mark.parametrize("held", [False, True])
    def test_ctrl_c_while_restoring_waits(
        self, make_model: Callable, held: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = make_model("llama")
        before = snapshot(model)
        masker = Masker(model)
        if held:
            masker.hold_levels(FRACTIONS)
        name = "_swap_back" if held else "_copy_back"
        restore = getattr(MaskingSession, name)
        interrupts = []

        def restore_with_ctrl_c(session: MaskingSession) -> None:
            if not session._is_open:
                interrupts.append(1)
                os.kill(os.getpid(), signal.SIGINT)
            restore(session)

        monkeypatch.setattr(MaskingSession, name, restore_with_ctrl_c)
        with pytest.raises(KeyboardInterrupt), masker.session(FRACTIONS) as session:
            session.set_level(2)
        assert interrupts
        assert snapshot(model) == before
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_ctrl_c_just_before_restoring(self, make_model: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        model = make_model("llama")
        before = snapshot(model)
        close, calls = MaskingSession.close, []

        def late(session: MaskingSession) -> None:
            calls.append(1)
            if len(calls) == 1:
                raise KeyboardInterrupt
            close(session)

        monkeypatch.setattr(MaskingSession, "close", late)
        with pytest.raises(KeyboardInterrupt), Masker(model).session(FRACTIONS) as session:
            session.set_level(2)
        assert snapshot(model) == before

    def test_copy_on_the_host_when_the_device_is_full(
        self, make_model: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = make_odd(make_model("llama"))
        before = snapshot(model)
        monkeypatch.setattr(session_module, "free_memory", lambda device: 0)
        with Masker(model).session(FRACTIONS) as session:
            session.set_level(2)
            assert snapshot(model) != before
        assert snapshot(model) == before

    @pytest.mark.parametrize("held", [False, True])
    def test_in_inference_mode(self, make_model: Callable, held: bool) -> None:
        model = make_model("llama")
        before = snapshot(model)
        masker = Masker(model)
        inputs = torch.arange(6).view(1, 6)
        with torch.inference_mode():
            if held:
                masker.hold_levels(FRACTIONS)
            with masker.session(FRACTIONS) as session:
                unmasked = model(inputs).logits
                session.set_level(1)
                assert not torch.equal(model(inputs).logits, unmasked)
        assert snapshot(model) == before
        model(inputs, labels=inputs).loss.backward()  # still trains
        assert model.model.layers[0].mlp.up_proj.weight.grad is not None

    @pytest.mark.parametrize("held", [False, True])
    def test_parameters_over_the_same_memory(self, held: bool) -> None:
        model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
        model[1].weight = nn.Parameter(model[0].weight.data)
        before = snapshot(model)
        masker = Masker(model)
        if held:
            masker.hold_levels(FRACTIONS)
        with masker.session(FRACTIONS) as session:
            session.set_level(2)
            assert model[0].weight.data_ptr() == model[1].weight.data_ptr()
            assert int((model[1].weight == 0).sum()) == session.report[-1].masked > 0
        assert snapshot(model) == before


class TestExclusion:
    def test_a_second_thread_waits(self, make_model: Callable) -> None:
        model = make_model("llama")
        first, second = Masker(model), Masker(nn.DataParallel(model), seed=1)  # two maskers, one model
        before = snapshot(model)
        seen, entered = [], threading.Event()

        def other() -> None:
            with second.session(FRACTIONS) as session:
                entered.set()
                seen.append(snapshot(model) == before)
                session.set_level(3)

        thread = threading.Thread(target=other)
        with first.session(FRACTIONS) as session:
            session.set_level(2)
            thread.start()
            assert not entered.wait(0.2)
        thread.join(10)
        assert entered.is_set()
        assert seen == [True]
        assert snapshot(model) == before

    def test_nested_sessions_are_refused(self, make_model: Callable) -> None:
        model = make_model("llama")
        masker, other = Masker(model), Masker(torch.compile(model))
        with masker.session(FRACTIONS) as session:
            session.set_level(1)
            for nested in (masker, other):
                with pytest.raises(RuntimeError, match="masked already"), nested.session(FRACTIONS):
                    pass
                with pytest.raises(RuntimeError, match="masked already"):
                    nested.hold_levels(FRACTIONS)
            assert session.set_level(2).masked > 0

    def test_other_models_are_free(self, make_model: Callable) -> None:
        with Masker(make_model("llama")).session(FRACTIONS), Masker(make_model("llama")).session(FRACTIONS) as session:
            assert session.set_level(1).masked > 0

    def test_a_session_that_is_over_masks_nothing(self, make_model: Callable) -> None:
        masker = Masker(make_model("llama"))
        for hold in (False, True):
            if hold:
                masker.hold_levels(FRACTIONS)
            with masker.session(FRACTIONS) as session:
                pass
            for call in (lambda ended=session: ended.set_level(1), lambda ended=session: ended.set_fraction(0.1)):
                with pytest.raises(RuntimeError, match="session is over"):
                    call()


class TestHeldLevels:
    @pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe"])
    @pytest.mark.parametrize(("masking", "scope"), KINDS)
    def test_equal_to_cumulative_levels(self, make_model: Callable, family: str, masking: str, scope: str) -> None:
        masker = Masker(make_model(family), masking, scope=scope)
        levels, report = levels_of(masker), masker.report
        masker.hold_levels(FRACTIONS)
        held = levels_of(masker)
        assert all(all_equal(one, other) for one, other in zip(levels, held, strict=True))
        assert masker.report == report

    def test_a_call_masks_nothing_anew(self, make_model: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        masker = Masker(make_model("llama"))
        masker.hold_levels(FRACTIONS)
        monkeypatch.setattr(levels_module, "random_mask_", lambda *_: pytest.fail("masked again"))
        with masker.session(FRACTIONS) as session:
            for level in (0, 3, 1, 2):
                session.set_level(level)
        assert session._backup is None

    @pytest.mark.parametrize("masking", ["random", "magnitude"])
    @pytest.mark.parametrize("change", ["optimizer", "few", "data", "load", "replace", "cast"])
    def test_a_change_of_the_weights_is_noticed(self, make_model: Callable, masking: str, change: str) -> None:
        model = make_model("llama")
        masker = Masker(model, masking)
        masker.hold_levels(FRACTIONS)
        levels_of(masker)
        self._change(model, change)
        held = levels_of(masker)
        masker.release()
        fresh = levels_of(Masker(model, masking))
        assert all(all_equal(one, other) for one, other in zip(held, fresh, strict=True))
        assert all_equal(held[0], weights_of(masker))

    @staticmethod
    def _change(model: nn.Module, how: str) -> None:
        if how == "optimizer":
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
            model(torch.arange(6).view(1, 6), labels=torch.arange(6).view(1, 6)).loss.backward()
            optimizer.step()
        elif how == "few":
            with torch.no_grad():
                model.model.layers[0].mlp.up_proj.weight[3, 1:20] = 2.0
        elif how == "data":  # moves no version counter, as when adapters are merged
            model.model.layers[1].mlp.up_proj.weight.data += 0.3
        elif how == "load":
            model.load_state_dict({name: value.flip(0) for name, value in model.state_dict().items()})
        elif how == "replace":
            model.load_state_dict({name: value.flip(0) for name, value in model.state_dict().items()}, assign=True)
        else:
            model.bfloat16()

    def test_thresholds_are_found_anew_after_a_change(self, make_model: Callable) -> None:
        masker = Masker(make_model("llama"), "magnitude")
        levels_of(masker)
        self._change(masker.model, "optimizer")
        fresh = levels_of(Masker(masker.model, "magnitude"))
        assert all(all_equal(one, other) for one, other in zip(levels_of(masker), fresh, strict=True))

    def test_thresholds_are_found_once(self, make_model: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        masker = Masker(make_model("llama"), "magnitude")
        levels_of(masker)
        monkeypatch.setattr(levels_module, "magnitude_thresholds", lambda *_: pytest.fail("found again"))
        levels_of(masker)

    def test_other_fractions_are_masked_in_place(self, make_model: Callable) -> None:
        masker = Masker(make_model("llama"))
        before = snapshot(masker.model)
        expected = levels_of(masker, (0.0, 0.2))
        masker.hold_levels(FRACTIONS)
        assert all(map(all_equal, levels_of(masker, (0.0, 0.2)), expected))
        with masker.session(FRACTIONS) as session:
            session.set_level(3)
            session.set_fraction(0.2)
            assert all_equal(weights_of(masker), expected[1])
            session.set_level(0)
            assert all_equal(weights_of(masker), expected[0])
        assert snapshot(masker.model) == before

    def test_fits_in_a_quarter_of_the_free_memory(self, make_model: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        masker = Masker(make_model("llama"))
        needed = 4 * 4 * 18_432 * 4  # four times four levels of float32 weights
        monkeypatch.setattr(masker_module, "free_memory", lambda device: needed)
        assert masker.fits_in_memory(FRACTIONS)
        monkeypatch.setattr(masker_module, "free_memory", lambda device: needed - 1)
        assert not masker.fits_in_memory(FRACTIONS)
        masker.hold_levels(FRACTIONS)
        assert masker.fits_in_memory(FRACTIONS)
        masker.release()
        assert not masker.fits_in_memory(FRACTIONS)

    def test_free_memory_of_the_host_is_plausible(self) -> None:
        assert 2**20 < masker_module.free_memory(torch.device("cpu")) < 2**50


class TestArguments:
    @pytest.mark.parametrize("argument", [{"masking": "l1"}, {"scope": "layer"}])
    def test_choices(self, make_model: Callable, argument: dict[str, str]) -> None:
        (name, value), *_ = argument.items()
        with pytest.raises(ValueError, match=f"`{name}` must be one of .*, got '{value}'"):
            Masker(make_model("llama"), **argument)

    @pytest.mark.parametrize(
        ("fractions", "message"),
        [
            ((0.0, 1.0), r"in \[0, 1\)"),
            ((-0.1,), r"in \[0, 1\)"),
            ((float("nan"),), r"in \[0, 1\)"),
            ((0.2, 0.1), "ascending"),
        ],
    )
    def test_fractions(self, make_model: Callable, fractions: tuple[float, ...], message: str) -> None:
        masker = Masker(make_model("llama"))
        with pytest.raises(ValueError, match=message), masker.session(fractions):
            pass
        with pytest.raises(ValueError, match=message):
            masker.hold_levels(fractions)

    @pytest.mark.parametrize("level", [-1, 4])
    def test_level(self, make_model: Callable, level: int) -> None:
        with (
            Masker(make_model("llama")).session(FRACTIONS) as session,
            pytest.raises(ValueError, match=r"in \[0, 4\)"),
        ):
            session.set_level(level)

    def test_models_that_cannot_be_masked_are_refused(self) -> None:
        with pytest.raises(UnmaskableModelError, match="meta"):
            Masker(nn.Linear(4, 4, device="meta"))
